"""From a goal to an action on every tick, through the real graphs."""

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.runtimes.loop import Loop
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.pipeline import RunConfig, goal_latent, pilot
from jepa_edge.runtimes.sources import open_source
from jepa_edge.runtimes.stream import Stream


@pytest.fixture
def flying(micro_bundle, tiny_clip):
    """The steps of a clip, and a loop that plans towards the end of it."""
    bundle = open_bundle(micro_bundle)
    stream = Stream(bundle, "fp32")
    goal = goal_latent(bundle, stream, str(tiny_clip))
    config = RunConfig(bundle=micro_bundle, camera=str(tiny_clip), mic=str(tiny_clip))
    loop = Loop(stream, age_limit_ms=1000.0, goal=goal, pilot=pilot(bundle, config, goal))
    source = open_source(str(tiny_clip), str(tiny_clip), bundle.manifest.senses, fast=True)
    return loop, list(source.steps()), bundle.manifest.model


class Replay:
    def __init__(self, steps):
        self.kept = steps

    def steps(self):
        yield from self.kept


def test_every_ok_tick_has_an_action_and_no_other_has(flying):
    loop, steps, facts = flying
    broken = steps[10]
    steps[10] = msgspec.structs.replace(broken, video=np.full_like(broken.video, np.nan))
    ticks = list(loop.ticks(Replay(steps)))
    assert [t.state for t in ticks[8:16]] == ["ok"] * 2 + ["hold"] + ["warming"] * 3 + ["ok"] * 2
    oks_before = 0  # a clip model gives its first latent when warm; a plan needs two
    for tick in ticks:
        oks_before = oks_before + 1 if tick.state == "ok" else 0
        assert (tick.action is not None) == (oks_before >= facts.history)
        assert tick.action is None or (
            len(tick.action) == facts.action_dim and max(map(abs, tick.action)) <= 1
        )
    assert all(t.plan_ms > 0 for t in ticks if t.action)


def test_a_rollout_that_is_not_finite_is_a_hold(flying):
    loop, steps, _ = flying

    def broken(_feed):
        return {"rollout": np.full((6, 2, 8), np.nan, np.float32)}

    loop.pilot.planner.engine.run = broken
    ticks = list(loop.ticks(Replay(steps)))
    holds = [t for t in ticks if t.state == "hold"]
    assert holds
    assert all("no finite energy" in t.reason for t in holds)
    assert not any(t.action for t in ticks)


def test_a_pilot_refuses_a_plan_that_is_not_finite():
    class Lost:
        history = 1

        def plan(self, history, goal):
            class Nowhere:
                actions = np.array([[np.nan]])

            return Nowhere

    with pytest.raises(CheckFailedError, match="not finite"):
        Pilot(Lost(), np.zeros(2)).act(np.zeros(2), ready=True)


def test_a_hole_in_time_forgets_the_history(flying):
    loop, steps, _ = flying
    list(loop.ticks(Replay(steps[:6])))
    assert len(loop.pilot._history) == 2
    [tick] = loop.ticks(Replay([msgspec.structs.replace(steps[9], dropped=3)]))
    assert tick.action is None
    assert len(loop.pilot._history) <= 1


def test_without_a_goal_nobody_plans(micro_bundle):
    bundle = open_bundle(micro_bundle)
    config = RunConfig(bundle=micro_bundle, camera="x", mic="x")
    assert pilot(bundle, config, None) is None
