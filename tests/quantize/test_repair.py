"""A short distillation repairs weights that 4 bits break, in the graph itself."""

import copy

import msgspec
import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
import torch

from jepa_edge.contract import Senses, VideoSpec
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import clips_from
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized, read_graph
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.quantize.repair import (
    Lesson,
    matrices_in,
    repaired,
    rounded,
    rounded_in,
    with_matrices,
)

pytestmark = pytest.mark.filterwarnings("ignore")
MICRO = ModelConfig(
    name="micro",
    encoder=EncoderConfig(dim=32, depth=2, heads=2, attention="bidirectional"),
    predictor=None,
    action=ActionConfig(dim=16, depth=1, heads=1, candidates=4),
    senses=Senses(video=VideoSpec(height=32, width=32)),
    window=4,
    pooled_dim=16,
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    found = JEPA(MICRO).eval()
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if name.endswith("weight") and parameter.ndim == 2:
                parameter.mul_(4.0)  # far from the near-linear start of a training
    return found


@pytest.fixture(scope="module")
def encoder(model):
    return onnx_from(graphs_of(model)[0])


@pytest.fixture(scope="module")
def clips():
    return clips_from("builtin:calibration", MICRO.senses, steps=5, limit=8)


def error(graph, exact, clips):
    run = ort.InferenceSession(graph.SerializeToString()).run
    wrong = size = 0.0
    for clip in clips:
        feed = {"video": clip.video[None, :, :8], "audio": clip.audio[None, ..., :80]}
        wanted, got = exact(None, feed)[0], run(None, feed)[0]
        wrong, size = wrong + ((got - wanted) ** 2).sum(), size + (wanted**2).sum()
    return float(np.sqrt(wrong / size))


def test_a_short_distillation_repairs_int4_on_clips_it_did_not_see(model, encoder, clips):
    recipe = recipe_for("int4w", "onnxruntime")
    names = rounded_in(encoder, model, recipe, "onnxruntime")
    assert {"encoder.blocks.0.attn.qkv", "encoder.blocks.1.mlp.fc2"} <= set(names)
    before = copy.deepcopy(model.state_dict())
    new = repaired(model, Lesson(recipe=recipe, engine="onnxruntime", steps=200), clips, names)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    exact = ort.InferenceSession(encoder.SerializeToString()).run
    heldout = clips_from("builtin:heldout", MICRO.senses, steps=4, limit=6)
    plain = quantized("onnxruntime", encoder, recipe, [{}])
    mended = quantized("onnxruntime", with_matrices(encoder, model, new), recipe, [{}])
    assert error(mended, exact, heldout) < 0.8 * error(plain, exact, heldout)


@pytest.fixture(scope="module")
def whole():
    """A model with all its parts, and its graphs."""
    torch.manual_seed(1)
    spec = PredictorConfig(dim=16, depth=1, heads=1)
    model = JEPA(msgspec.structs.replace(MICRO, predictor=spec, pool="grid")).eval()
    return model, {source.name: onnx_from(source) for source in graphs_of(model)}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["int4w", "int8"])
def test_only_layers_that_the_quantizer_rounds_are_taught(engine, precision, whole):
    """What makes pooled latents stays in floating point, seen or predicted, as embeddings do."""
    model, traced = whole
    recipe = recipe_for(precision, engine)
    taught = {}
    for name, onnx_graph in traced.items():
        graph = read_graph(engine, onnx_graph)
        taught[name] = rounded_in(graph, model, recipe.of_graph(name), engine)
        pools = any(layer.startswith("pool.") for layer in matrices_in(graph, model))
        assert pools == (name != "rollout")
    assert "encoder.blocks.1.mlp.fc2" in taught["encoder"]
    assert "predictor.blocks.0.attn.qkv" in taught["predictor"]
    assert taught["rollout"] == []
    for names in taught.values():
        assert not [name for name in names if name.startswith(("pool", "encoder.tokens"))]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_repaired_weights_are_on_the_grid_and_in_their_place(model, encoder, engine):
    recipe = recipe_for("int4w", engine)
    weights = {
        name: layer.weight.detach()
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    names = matrices_in(read_graph(engine, encoder), model)
    new = {name: rounded(weights[name], recipe, engine).numpy() for name in names}
    for name in names:
        again = rounded(torch.from_numpy(new[name]), recipe, engine).numpy()
        np.testing.assert_allclose(again, new[name], atol=1e-6)
    graph = with_matrices(read_graph(engine, encoder), model, new)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in moved.named_modules():
            if name in new:
                layer.weight.copy_(torch.from_numpy(new[name]))
    rng = np.random.default_rng(0)
    video, audio = (
        rng.normal(size=spec.shape).astype(np.float32) for spec in graphs_of(model)[0].inputs
    )
    with torch.no_grad():
        wanted = graphs_of(moved)[0].module(torch.from_numpy(video), torch.from_numpy(audio))[0]
    if engine == "onnxruntime":
        session = ort.InferenceSession(graph.SerializeToString())
        got = session.run(None, {"video": video, "audio": audio})[0]
    else:
        options = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = ov.Core().compile_model(graph, "CPU", options)
        got = compiled({"video": video, "audio": audio})["latents"]
    np.testing.assert_allclose(got, wanted.numpy(), atol=2e-4)
