"""A step of V-JEPA 2-AC's rollout, with its cache, through TensorRT's real parser and builder."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from jepa_edge.devices.targets import target
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.vjepa.config import ActionPredictorConfig, TransformerConfig, VJepaConfig
from jepa_edge.model.vjepa.model import VJepa
from jepa_edge.quantize.compile import quantized
from jepa_edge.quantize.recipe import recipe_for, with_float_norms
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check

pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
CANDIDATES = 2
HORIZON = 2


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    config = VJepaConfig(
        name="micro-ac",
        family="2-AC",
        encoder=TransformerConfig(dim=48, depth=1, heads=3, mlp_dim=96),
        action=ActionPredictorConfig(
            blocks=TransformerConfig(dim=32, depth=2, heads=2, mlp_dim=64)
        ),
        frames=2,
        height=32,
        width=32,
        horizon=HORIZON,
    )
    model = VJepa(config).eval()
    for name, parameter in model.named_parameters():  # an importer's layers begin unfilled
        if parameter.ndim > 1:
            torch.nn.init.xavier_normal_(parameter)
        else:
            torch.nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
    return next(s for s in graphs_of(model) if s.name == "rollout_step")


@pytest.fixture(scope="module")
def graph(source):
    return onnx_from(source)


@pytest.fixture(scope="module")
def calls(source):
    """Real steps of a rollout: each from the latents and the cache that the last one left."""
    random = np.random.default_rng(0)
    found = []
    shapes = {spec.name: (CANDIDATES, *spec.shape[1:]) for spec in source.inputs}
    latents = random.normal(size=shapes["latents"]).astype(np.float32)
    caches = [np.zeros(shapes[name], np.float32) for name in ("cache_k", "cache_v")]
    for step in range(HORIZON + 1):
        moves = [random.uniform(-1, 1, shapes[name]) for name in ("action", "state")]
        given = [latents, *(move.astype(np.float32) for move in moves), np.array([step]), *caches]
        found.append({s.name: array for s, array in zip(source.inputs, given, strict=True)})
        with torch.no_grad():
            outputs = source.module(*map(torch.from_numpy, given))
        latents, *caches = [output.numpy() for output in outputs]
    return found


@pytest.mark.parametrize("precision", ["fp16", "int8w", "int8"])
def test_a_step_of_the_rollout_parses_and_builds(graph, calls, precision, tmp_path):
    recipe = with_float_norms(recipe_for(precision, "tensorrt"))
    limit = target("jetson").int8_attention_tokens
    made = quantized("tensorrt", graph, recipe, calls, attention_tokens=limit)
    path = tmp_path / "rollout_step.onnx"
    onnx.save(made, str(path))
    check = tensorrt_check(path)
    assert check.status == "passed", check.detail
    assert made.opset_import[0].version <= 20
    quantizers = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert bool(quantizers) == (precision == "int8")
    kinds = {port.name: port.type.tensor_type.elem_type for port in made.graph.input}
    assert kinds.pop("step") == TensorProto.INT64
    assert set(kinds.values()) == {TensorProto.FLOAT16}


def test_int8_steps_give_nearly_the_numbers_of_fp32(graph, source, calls):
    """Fed back step by step, as a planner does; the zero points are 0, the scales fp16."""
    import onnxruntime as ort

    recipe = with_float_norms(recipe_for("int8", "tensorrt"))
    made = quantized("tensorrt", graph, recipe, calls)
    session = ort.InferenceSession(made.SerializeToString())
    kept = {}
    for given in calls:
        fed = {name: kept.get(name, array) for name, array in given.items()}
        halved = {n: a if n == "step" else a.astype(np.float16) for n, a in fed.items()}
        names = [spec.name for spec in source.outputs]
        outputs = dict(zip(names, session.run(names, halved), strict=True))
        kept = {n.removeprefix("next_"): a.astype(np.float32) for n, a in outputs.items()}
        with torch.no_grad():
            exact = source.module(*(torch.from_numpy(given[s.name]) for s in source.inputs))[0]
        error = np.linalg.norm(kept["latents"] - exact.numpy()) / np.linalg.norm(exact.numpy())
        assert 0 < error < 0.05
