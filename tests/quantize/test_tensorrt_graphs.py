"""What TensorRT's parser is known to reject, seen to be rejected, and never written by us."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference

from jepa_edge.contract import CheckFailedError, Senses, VideoSpec
from jepa_edge.devices.targets import target
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized
from jepa_edge.quantize.qdq import fold_smoothing, long_attention
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.quantize.typed import emulated_bf16, typed_graph
from jepa_edge.runtimes import engine, tensorrt_rtx
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check

pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = ModelConfig(
        name="micro",
        encoder=EncoderConfig(dim=32, depth=1, heads=2),
        predictor=PredictorConfig(dim=32, depth=1, heads=1),
        action=ActionConfig(dim=32, depth=1, heads=1, candidates=4),
        senses=Senses(video=VideoSpec(height=32, width=32)),
        window=4,
        pooled_dim=16,
    )
    return JEPA(config).eval()


@pytest.fixture(scope="module")
def predictor(model):
    return onnx_from(next(s for s in graphs_of(model) if s.name == "predictor"))


def calls(graph, count=4):
    rng = np.random.default_rng(0)
    return [
        {
            port.name: rng.normal(
                size=[dim.dim_value for dim in port.type.tensor_type.shape.dim]
            ).astype(np.float32)
            for port in graph.graph.input
        }
        for _ in range(count)
    ]


def jetson(graph, precision):
    limit = target("jetson").int8_attention_tokens
    recipe = recipe_for(precision, "tensorrt")
    return quantized("tensorrt", graph, recipe, calls(graph), attention_tokens=limit)


@pytest.fixture(scope="module")
def int8(predictor):
    return jetson(predictor, "int8")


def built(graph, tmp_path, capability="SM86"):
    path = tmp_path / "graph.onnx"
    onnx.save(graph, str(path))
    return tensorrt_check(path, capability)


def operators(graph):
    return {node.op_type for node in graph.graph.node}


class Reader:
    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


def by_onnxruntime(graph, tmp_path, **options):
    """ONNX Runtime's own static quantization, as users call it."""
    from onnxruntime.quantization import quantize_static

    source, out = tmp_path / "source.onnx", tmp_path / "static.onnx"
    onnx.save(graph, str(source))
    quantize_static(str(source), str(out), Reader(calls(graph)), **options)
    return onnx.load(str(out))


def test_a_large_graph_is_built_in_a_process_of_its_own(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "LARGE_BYTES", 0)
    assert built(predictor, tmp_path).status == "passed"
    onnx.save(with_broken_input(predictor), str(tmp_path / "graph.onnx"))
    refused = tensorrt_check(tmp_path / "graph.onnx")
    assert refused.status == "failed"
    assert "process" not in refused.detail  # TensorRT's own words came across
    monkeypatch.setattr(tensorrt_rtx.sys, "executable", str(dying(tmp_path)))
    died = tensorrt_check(tmp_path / "graph.onnx")
    assert (died.status, died.name) == ("failed", "TensorRT-RTX build, SM86")
    assert "ended with -9" in died.detail


def with_broken_input(graph):
    broken = onnx.ModelProto()
    broken.CopyFrom(graph)
    broken.graph.node[0].op_type = "NoSuchOperator"
    return broken


def dying(folder):
    """What ends as the system ends a process that takes too much memory."""
    script = folder / "dying"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    return script


def test_rejection_1_int32_bias_is_dequantized(predictor, int8, tmp_path):
    theirs = by_onnxruntime(with_gemm(predictor), tmp_path)
    assert any(
        init.data_type == TensorProto.INT32 and "bias" in init.name
        for init in theirs.graph.initializer
    )
    refused = built(theirs, tmp_path)
    assert refused.status == "failed", refused
    small = {i.name: i.data_type for i in int8.graph.initializer}
    for node in int8.graph.node:
        if node.op_type == "DequantizeLinear":
            assert small.get(node.input[0], TensorProto.INT8) == TensorProto.INT8
    assert built(int8, tmp_path).status == "passed"


def with_gemm(graph):
    """A convolution with bias before all, whose bias ONNX Runtime quantizes to int32."""
    del graph
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(4, 3, 2, 2)).astype(np.float32), "weight")
    bias = numpy_helper.from_array(rng.normal(size=4).astype(np.float32), "bias")
    node = helper.make_node("Conv", ["x", "weight", "bias"], ["y"], strides=[2, 2], name="conv")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])
    body = helper.make_graph([node], "conv", [x], [y], [weight, bias])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_rejection_2_dynamic_quantization(predictor, int8, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    source, out = tmp_path / "source.onnx", tmp_path / "dynamic.onnx"
    onnx.save(predictor, str(source))
    quantize_dynamic(str(source), str(out))
    theirs = onnx.load(str(out))
    dynamic = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
    assert dynamic & operators(theirs)
    assert built(theirs, tmp_path).status == "failed"
    assert not dynamic & operators(int8)


def test_rejection_3_zero_points_that_are_not_zero(predictor, int8, tmp_path):
    recipe = recipe_for("int8", "openvino")  # NNCF's mixed preset
    assert not recipe.symmetric
    theirs = quantized("onnxruntime", predictor, recipe, calls(predictor))
    assert any(zero.any() for zero in zero_points(theirs))
    assert built(theirs, tmp_path).status == "failed"
    assert not any(zero.any() for zero in zero_points(int8))


def zero_points(graph):
    arrays = {init.name: numpy_helper.to_array(init) for init in graph.graph.initializer}
    names = {
        node.input[2]
        for node in graph.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2
    }
    return [arrays[name] for name in names]


def test_rejection_4_attention_operator_in_fp32(predictor, int8, tmp_path):
    shape = [1, 2, 8, 16]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "qkvy"]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    body = helper.make_graph([node], "attention", ports[:3], ports[3:])
    theirs = helper.make_model(body, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    assert built(theirs, tmp_path).status == "failed"
    for ours in (predictor, int8):
        assert "Attention" not in operators(ours)
        assert ours.opset_import[0].version <= 20  # the newest that TensorRT 10.3 parses


def test_rejection_5_a_graph_of_two_types_at_one_operator(predictor, int8, tmp_path):
    """Strong typing takes no fp16 scale beside an fp32 tensor; nor does ONNX."""
    broken = onnx.ModelProto()
    broken.CopyFrom(predictor)
    half = broken.graph.initializer[
        next(
            k
            for k, i in enumerate(broken.graph.initializer)
            if len(i.dims) == 1 and i.dims[0] > 1 and i.data_type == TensorProto.FLOAT
        )
    ]
    half.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(half).astype(np.float16), half.name)
    )
    assert built(broken, tmp_path).status == "failed"
    kinds = {port.type.tensor_type.elem_type for port in int8.graph.input}
    assert kinds == {TensorProto.FLOAT16}
    onnx.checker.check_model(int8, full_check=True)


def test_rejection_6_a_file_that_only_the_parser_takes(int8, tmp_path):
    """TensorRT's parser is no ONNX validator: every graph is loaded in ONNX Runtime as well."""
    shape = [1, 4, 1]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")  # of length 4: no squeeze
    node = helper.make_node("Squeeze", ["x", "axes"], ["y"])
    body = helper.make_graph([node], "squeeze", [x], [y], [axes])
    broken = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(Exception, match="(?i)squeeze|dimension"):
        ort.InferenceSession(broken.SerializeToString()).run(
            None, {"x": np.zeros(shape, np.float32)}
        )
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(broken, full_check=True)
    ort.InferenceSession(int8.SerializeToString())


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8w", "int8"])
@pytest.mark.parametrize("name", ["encoder", "rollout"])
def test_strongly_typed_graphs_build(model, name, precision, tmp_path):
    graph = onnx_from(next(s for s in graphs_of(model) if s.name == name))
    made = jetson(graph, precision)
    check = built(made, tmp_path)
    assert check.status == "passed", check.detail
    assert made.opset_import[0].version <= 20


def test_thor_takes_fp8_and_int4(predictor, tmp_path):
    thor = target("jetson-agx-thor")
    for precision in ("fp8", "int4w"):
        made = jetson(predictor, precision)
        check = built(made, tmp_path, thor.compiles_as)
        assert check.status == "passed", (precision, check.detail)


@pytest.mark.parametrize("islands", [(), ("norm", "softmax", "residual")])
@pytest.mark.parametrize("half", ["f16", "bf16"])
def test_halves_give_the_numbers_of_fp32(predictor, half, islands):
    given = calls(predictor, 1)[0]
    exact = ort.InferenceSession(predictor.SerializeToString()).run(None, given)
    graph = (
        emulated_bf16(predictor, islands)
        if half == "bf16"
        else typed_graph(predictor, half, islands)
    )
    kind = np.float16 if half == "f16" else np.float32
    session = ort.InferenceSession(graph.SerializeToString())
    got = session.run(None, {name: array.astype(kind) for name, array in given.items()})
    for ours, theirs in zip(got, exact, strict=True):
        error = np.linalg.norm(ours.astype(np.float32) - theirs) / np.linalg.norm(theirs)
        assert 0 < error < (0.004 if half == "f16" else 0.03)


def test_islands_are_computed_in_fp32(predictor):
    graph = typed_graph(predictor, "f16", ("norm", "residual"))
    inferred = shape_inference.infer_shapes(graph).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in inferred.value_info}
    norms = [n for n in inferred.node if n.op_type == "LayerNormalization"]
    products = [n for n in inferred.node if n.op_type == "MatMul"]
    assert {kinds[n.output[0]] for n in norms} == {TensorProto.FLOAT}
    assert {kinds[n.output[0]] for n in products} == {TensorProto.FLOAT16}


def test_a_constant_beyond_fp16_is_refused(predictor):
    graph = onnx.ModelProto()
    graph.CopyFrom(predictor)
    weight = next(i for i in graph.graph.initializer if i.data_type == TensorProto.FLOAT)
    big = numpy_helper.to_array(weight) * 0 + 1e6
    weight.CopyFrom(numpy_helper.from_array(big.astype(np.float32), weight.name))
    with pytest.raises(CheckFailedError, match="more than fp16 can hold"):
        typed_graph(graph, "f16")


def test_attention_over_the_limit_stays_float(predictor):
    assert long_attention(predictor, 0) == ()
    tokens = 4 * 8 + 2 * 8  # window and horizon, of 4 video and 4 audio tokens
    assert long_attention(predictor, tokens) == ()
    short = long_attention(predictor, tokens - 1)
    assert len(short) == 2
    assert all("attn/MatMul" in name.replace("\\", "") for name in short)


def test_smoothing_is_folded_into_norms_without_a_change(predictor):
    from jepa_edge.quantize.int8 import int8_graph

    given = calls(predictor, 1)[0]
    graph = int8_graph(predictor, calls(predictor), recipe_for("int8", "tensorrt"))
    before = ort.InferenceSession(graph.SerializeToString()).run(None, given)
    assert fold_smoothing(graph) >= 2
    onnx.checker.check_model(graph, full_check=True)
    after = ort.InferenceSession(graph.SerializeToString()).run(None, given)
    for one, other in zip(before, after, strict=True):
        assert np.linalg.norm(one - other) / np.linalg.norm(one) < 0.02
