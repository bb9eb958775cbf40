"""The planner, on a real graph whose best plan is known: a point that each action moves."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from jepa_edge.bundle import Graph, Grounded, ModelFacts
from jepa_edge.contract import CheckFailedError, TensorSpec, WrongUseError
from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine
from jepa_edge.runtimes.planner import Cost, Planner, PlannerConfig, coloured

K, J, A, HISTORY, PER_STEP = 64, 5, 2, 3, 0.2
METHODS = ["cem", "icem", "mppi"]


def facts_with(**others):
    """What is known of a model with two free dimensions."""
    sizes = {"window": 1, "tokens_per_step": 1, "latent_dim": A, "pooled_dim": A, "horizon": 0}
    return ModelFacts(name="point", attention="bidirectional", **sizes, **others)


POINT = facts_with()


@pytest.fixture(scope="module")
def point(tmp_path_factory):
    """`rollout = history[-1] + cumsum(0.2 * actions)`, in ONNX Runtime."""
    shapes = {"history": (1, HISTORY, A), "actions": (K, J, A), "rollout": (K, J, A)}
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    consts = {
        "last": np.array([HISTORY - 1], np.int64),
        "axis": np.array(1, np.int64),
        "reach": np.array(PER_STEP, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["history", "last"], ["now"], axis=1),
            helper.make_node("Mul", ["actions", "reach"], ["moves"]),
            helper.make_node("CumSum", ["moves", "axis"], ["moved"]),
            helper.make_node("Add", ["moved", "now"], ["rollout"]),
        ],
        "point",
        [infos["history"], infos["actions"]],
        [infos["rollout"]],
        [onnx.numpy_helper.from_array(array, name) for name, array in consts.items()],
    )
    path = tmp_path_factory.mktemp("point") / "rollout.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path
    )
    specs = {name: TensorSpec(name=name, shape=shape) for name, shape in shapes.items()}
    facts = Graph(
        path=path.name, inputs=[specs["history"], specs["actions"]], outputs=[specs["rollout"]]
    )
    return OnnxRuntimeEngine(path, facts, 1)


def at(place):
    return np.tile(np.asarray(place, np.float32), (HISTORY, 1))


GOAL = np.array([0.9, -1.4], np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_acting_by_plans_arrives_and_stays(point, method):
    planner = Planner(point, PlannerConfig(method=method), POINT)
    place = np.zeros(A, np.float32)
    for _ in range(14):
        plan = planner.plan(at(place), GOAL)
        assert plan.actions.shape == (J, A)
        assert np.abs(plan.actions).max() <= 1.0
        place = place + PER_STEP * plan.actions[0]
    assert np.linalg.norm(place - GOAL) < 0.15


@pytest.mark.parametrize("method", ["cem", "icem"])
@settings(max_examples=20, deadline=None)
@given(x=st.floats(-2, 2), y=st.floats(-2, 2), more=st.integers(2, 6))
def test_more_iterations_never_find_less(point, method, x, y, more):
    goal = np.array([x + 3, y], np.float32)
    once = Planner(point, PlannerConfig(method=method, iterations=1), POINT).plan(at((0, 0)), goal)
    often = Planner(point, PlannerConfig(method=method, iterations=more), POINT).plan(
        at((0, 0)), goal
    )
    assert often.energy <= once.energy
    assert (once.iterations, often.iterations) == (1, more)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_plans_the_same_and_a_reset_begins_again(point, method):
    first, second = (Planner(point, PlannerConfig(method=method, seed=3), POINT) for _ in range(2))
    plans = [first.plan(at((0, 0)), GOAL) for _ in range(3)]
    again = [second.plan(at((0, 0)), GOAL) for _ in range(3)]
    first.reset()
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(plans, again, strict=True))
    assert np.array_equal(first.plan(at((0, 0)), GOAL).actions, plans[0].actions)
    other = Planner(point, PlannerConfig(method=method, seed=4), POINT).plan(at((0, 0)), GOAL)
    assert not np.array_equal(other.actions, plans[0].actions)


def test_the_deadline_cuts_iterations_but_there_is_always_a_plan(point):
    planner = Planner(point, PlannerConfig(iterations=50, deadline_ms=1e-6), POINT)
    plan = planner.plan(at((0, 0)), GOAL)
    assert (plan.iterations, plan.complete) == (1, False)
    assert np.isfinite(plan.actions).all()


def test_what_is_not_finite_is_refused(point):
    planner = Planner(point, PlannerConfig(), POINT)
    with pytest.raises(CheckFailedError, match="no finite energy"):
        planner.plan(at((np.nan, 0)), GOAL)
    planner.reset()
    assert np.isfinite(planner.plan(at((0, 0)), GOAL).actions).all()


@pytest.mark.parametrize("wrong", [{"iterations": 0}, {"elites": 0.0}, {"kept": 1.5}])
def test_settings_are_checked(wrong):
    with pytest.raises(WrongUseError):
        PlannerConfig(**wrong)


@pytest.mark.parametrize("steps", [2, 5, 6, 12])
def test_coloured_noise_has_unit_variance_and_moves_slowly(steps):
    drawn = [coloured(np.random.default_rng(0), (4000, steps, 2), e) for e in (0.0, 1.0, 2.0)]
    assert all(np.allclose(noise.std(axis=(0, 2)), 1, atol=0.05) for noise in drawn)
    jumps = [float(np.abs(np.diff(noise, axis=1)).mean()) for noise in drawn]
    if steps > 2:
        assert jumps[0] > jumps[1] > jumps[2]


class Broken:
    """The point's engine, dead while `dead`."""

    def __init__(self, engine):
        self.engine, self.dead = engine, False
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, inputs):
        if self.dead:
            raise CheckFailedError("the accelerator is gone")
        return self.engine.run(inputs)


def test_a_dead_engine_is_bridged_by_the_last_plan_and_then_refused(point):
    engine = Broken(point)
    planner = Planner(engine, PlannerConfig(bridge_steps=J), POINT)
    found = planner.plan(at((0, 0)), GOAL)
    engine.dead = True
    bridged = [planner.plan(at((0, 0)), GOAL) for _ in range(J - 1)]
    assert found.source == "search"
    assert {plan.source for plan in bridged} == {"last plan"}
    assert all(np.isfinite(plan.actions).all() for plan in bridged)
    with pytest.raises(CheckFailedError, match="gone"):
        planner.plan(at((0, 0)), GOAL)
    engine.dead = False
    assert planner.plan(at((0, 0)), GOAL).source == "search"


METRES = [
    Grounded(name="x_m", mean=5.0, std=4.0, goal=True),
    Grounded(name="room_m", mean=2.0, std=1.0, at_least=1.0),
]


def rolled(**places):
    """`[2, 1, 3]`: two candidates' x_m, room_m, and one free dimension."""
    rows = zip(places["x"], places["room"], places.get("free", (0, 0)), strict=True)
    return np.array([[[(x - 5) / 4, room - 2, free]] for x, room, free in rows], np.float32)


def energies(actions=0.0, config=None, **places):
    facts = facts_with(grounded=METRES, caution=3.0, effort=0.5)
    goal = np.array([(9.0 - 5) / 4, 0.0, 7.0], np.float32)
    done = np.full((2, 1, 2), actions, np.float32)
    return Cost(config or PlannerConfig(), facts)(rolled(**places), goal, done)


def test_grounded_goals_are_measured_in_metres_and_nothing_else():
    assert energies(x=(9, 7), room=(3, 3)) == pytest.approx([0.0, 2.0], abs=1e-5)


def test_lacking_room_and_the_unknown_cost():
    near, far = energies(x=(9, 9), room=(0.2, 1.5))
    assert (near, far) == pytest.approx((0.8 * 3.0, 0.0), abs=1e-5)
    usual, strange = energies(x=(9, 9), room=(3, 3), free=(1.0, 4.0))
    assert usual == pytest.approx(0.0, abs=1e-5)
    assert strange == pytest.approx(14.0 * PlannerConfig().wariness, rel=1e-5)


def test_the_model_says_what_weighs_and_a_configuration_says_it_better():
    there = {"x": (9, 9), "room": (0.5, 3)}
    own = PlannerConfig(caution=1.0, effort=0.0)
    assert energies(actions=1.0, **there) == pytest.approx([0.5 * 3 + 0.5, 0.5], abs=1e-5)
    assert energies(actions=1.0, config=own, **there) == pytest.approx([0.5, 0.0], abs=1e-5)


def test_nothing_that_is_not_finite_is_ever_best():
    assert np.isinf(energies(x=(np.nan, 8), room=(3, 3))[0])
