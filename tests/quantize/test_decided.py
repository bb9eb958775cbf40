"""The gate of models that act: int8 that decides otherwise is not shipped."""

import msgspec
import numpy as np
import pytest

from jepa_edge.bench.decisions import decider_of, exact_decisions, judged
from jepa_edge.bench.variants import Chain, variants_of
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.devices.targets import target
from jepa_edge.media.clips import clips_from
from jepa_edge.quantize.decided import NAME, Candidate, situations_for, with_decisions
from jepa_edge.quantize.recipe import Recipe, recipe_for
from jepa_edge.runtimes.engine import open_engine


@pytest.fixture
def bundle(micro_bundle):
    return open_bundle(micro_bundle)


def asked_on(bundle, clips):
    engines = {name: open_engine(bundle, name, "fp32") for name in ("encoder", "rollout")}
    return situations_for(
        lambda name, given: engines[name].run(given),
        bundle.manifest.model,
        bundle.manifest.senses,
        str(clips),
    )


def candidate(bundle, graphs):
    return Candidate(
        precision="int8",
        graphs=graphs,
        folder=bundle.folder,
        target=target("generic-onnx"),
        recipe=recipe_for("int8", "onnxruntime"),
    )


def swapped(bundle, tmp_path):
    """int8 graphs whose rollout turns every action around: cosines would hardly tell."""
    import onnx
    from onnx import helper, numpy_helper

    graphs = dict(bundle.manifest.precisions["int8"].graphs)
    model = onnx.load(str(bundle.path(graphs["rollout"].path)))
    minus = numpy_helper.from_array(np.float32(-1.0), "minus")
    turn = helper.make_node("Mul", ["actions", "minus"], ["turned"])
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "actions":
                node.input[place] = "turned"
    model.graph.node.insert(0, turn)
    model.graph.initializer.append(minus)
    file = bundle.folder / "turned.onnx"
    onnx.save(model, str(file))
    graphs["rollout"] = msgspec.structs.replace(graphs["rollout"], path="turned.onnx")
    return graphs


def test_int8_that_decides_as_fp32_says_so_with_its_interval(bundle, tiny_clip):
    asked = asked_on(bundle, tiny_clip)
    made = candidate(bundle, bundle.manifest.precisions["fp32"].graphs)
    check = with_decisions(made, asked, keep_failing=False)["rollout"].checks[-1]
    assert (check.name, check.status) == (NAME, "passed")
    assert check.detail.startswith("100.0% of 60 decisions (95 %: 94.0% to 100.0%)")
    again = msgspec.structs.replace(made, graphs=with_decisions(made, asked, keep_failing=False))
    twice = with_decisions(again, asked, keep_failing=False)
    assert [one.name for one in twice["rollout"].checks].count(NAME) == 1


def test_other_decisions_fail_however_near_the_latents(bundle, tiny_clip, tmp_path):
    asked = asked_on(bundle, tiny_clip)
    made = candidate(bundle, swapped(bundle, tmp_path))
    with pytest.raises(CheckFailedError, match=r"int8 does not decide as fp32: same action as fp"):
        with_decisions(made, asked, keep_failing=False)
    check = with_decisions(made, asked, keep_failing=True)["rollout"].checks[-1]
    assert check.status == "failed"
    assert "needs 95%" in check.detail


def test_clips_too_short_to_decide_on_are_not_run_not_passed(bundle, tiny_clip):
    asked = asked_on(bundle, tiny_clip)
    assert asked
    short = msgspec.structs.replace(bundle.manifest.model, rollout_horizon=500)
    missing = situations_for(asked.reference.call, short, bundle.manifest.senses, str(tiny_clip))
    made = candidate(bundle, bundle.manifest.precisions["int8"].graphs)
    check = with_decisions(made, missing, keep_failing=False)["rollout"].checks[-1]
    assert check.status == "not run here"
    assert "holds no clip of 504 steps" in check.detail


def test_models_that_do_not_act_are_not_asked(bundle, tiny_clip):
    still = msgspec.structs.replace(bundle.manifest.model, candidates=0)
    asked = situations_for(lambda *_: {}, still, bundle.manifest.senses, str(tiny_clip))
    assert asked is None
    graphs = bundle.manifest.precisions["int8"].graphs
    assert with_decisions(candidate(bundle, graphs), None, keep_failing=False) == graphs


def test_near_ties_are_told_from_clear_decisions(bundle, tiny_clip):
    """Rounding fp32's own latents to bf16 changes no decision that is called clear."""
    chain = Chain(variants_of([bundle], ["fp32"])[0], threads=1)
    decider = decider_of(chain)
    clips = clips_from(str(tiny_clip), chain.senses, steps=decider.steps, stride=1)
    exact = exact_decisions(decider, clips, 0)

    def halved(name, given):
        outputs = chain.engines[name].run(given)
        if name != "encoder":
            return outputs
        bits = outputs["pooled"].view(np.uint32) + np.uint32(0x8000) & np.uint32(0xFFFF0000)
        return outputs | {"pooled": bits.view(np.float32)}

    found = judged(msgspec.structs.replace(decider, call=halved), exact, clips, 0)
    assert 0 < found.clear_count <= found.count
    assert found.same_clear_action.share == 1.0
    nowhere = [msgspec.structs.replace(one, is_clear=[False] * 4) for one in exact]
    blind = judged(decider, nowhere, clips, 0)
    assert (blind.clear_count, blind.same_clear_action.high) == (0, 1.0)


def test_history_longer_than_the_window_is_encoded_step_by_step(bundle, tiny_clip):
    """A model that encodes single steps remembers as many windows as its history is long."""
    chain = Chain(variants_of([bundle], ["fp32"])[0], threads=1)
    facts = msgspec.structs.replace(bundle.manifest.model, window=1, history=3)
    seen = []

    def call(name, given):
        assert name == "encoder"
        seen.append(given["video"])
        first = given["video"][0, 0, 0, 0, 0]
        return {"pooled": np.full((1, 1, 8), first, np.float32)}

    decider = msgspec.structs.replace(decider_of(chain), facts=facts, call=call)
    assert decider.steps == 3 + facts.rollout_horizon
    (clip, *_) = clips_from(str(tiny_clip), chain.senses, steps=decider.steps, stride=1)
    history, goal = decider.seen(clip)
    starts = clip.video[0, ::2, 0, 0]
    assert history.shape == (1, 3, 8)
    np.testing.assert_array_equal(history[0, :, 0], starts[:3])
    assert goal[0] == starts[decider.steps - 1]
    assert [video.shape[2] for video in seen] == [2, 2, 2, 2]


def test_a_float_graph_is_fp32_where_the_others_are_bf16():
    recipe = Recipe(weights="int8", activations="int8", floats="bf16", float_graphs=("rollout",))
    own = recipe.of_graph("rollout")
    assert (own.weights, own.activations, own.floats) == ("float", "float", "f32")
    assert recipe.of_graph("encoder") is recipe
    half = msgspec.structs.replace(recipe, floats="f16").of_graph("rollout")
    assert half.floats == "f16"


@pytest.mark.parametrize("precision", ["bf16", "int8", "mixed", "int4w", "fp8"])
def test_shipped_recipes_leave_the_rollout_in_float(precision):
    for engine in ("openvino", "onnxruntime", "tensorrt"):
        assert recipe_for(precision, engine).of_graph("rollout").weights == "float"
