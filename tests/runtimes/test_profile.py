"""The profile comes from the engine: its nodes are those it runs, its groups add up."""

import msgspec
import numpy as np
import onnx.parser
import pytest

from jepa_edge.bundle import Graph, open_bundle
from jepa_edge.cli import main
from jepa_edge.contract import TensorSpec, WrongUseError
from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine
from jepa_edge.runtimes.profile import _onnxruntime, profile_of


def test_every_node_is_in_one_group(micro_bundle):
    bundle = open_bundle(micro_bundle)
    profile = profile_of(bundle, "encoder", "fp32")
    assert {"MatMul", "Transpose"} <= {node.operator for node in profile.nodes}
    assert sum(group.nodes for group in profile.groups) == len(profile.nodes)
    assert sum(group.share for group in profile.groups) == pytest.approx(1, abs=0.01)
    assert profile.nodes[0].ms == max(node.ms for node in profile.nodes)
    with pytest.raises(WrongUseError, match="it has: encoder"):
        profile_of(bundle, "decoder")


def test_an_engine_that_tells_nothing_is_named(micro_bundle):
    bundle = open_bundle(micro_bundle)
    manifest = msgspec.structs.replace(bundle.manifest, engine="tensorrt")
    with pytest.raises(WrongUseError, match="trtexec"):
        profile_of(msgspec.structs.replace(bundle, manifest=manifest), "encoder")


def test_the_command_line_prints_profiles(micro_bundle, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(micro_bundle), "--profile", "all", "--json"])
    assert ended.value.code == 0
    printed = msgspec.json.decode(capsys.readouterr().out)
    assert [p["graph"] for p in printed["profiles"]] == ["encoder", "predictor", "rollout"]


def test_onnx_runtime_multiplies_integers_in_an_int8_graph(tmp_path):
    """A product with a bias, quantized as we do: integers in, float out, the bias after it."""
    draw = np.random.default_rng(0)
    weights = draw.integers(-64, 64, (32, 16), np.int8)  # full ones overflow without VNNI
    graph = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 20]>
        g (float[4, 32] x) => (float[4, 16] y)
        <float s = {0.02}, int8 z = {0}, float b = {0.5}, int8[32, 16] w, float t = {0.01}>
        {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            v = DequantizeLinear (w, t, z)
            m = MatMul (d, v)
            y = Add (m, b)
        }""")
    kept = [one for one in graph.graph.initializer if one.name != "w"]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend([*kept, onnx.numpy_helper.from_array(weights, "w")])
    onnx.save(graph, tmp_path / "g.onnx")
    x = draw.normal(size=(4, 32)).astype(np.float32)
    facts = Graph(
        path="g.onnx",
        inputs=[TensorSpec(name="x", shape=(4, 32))],
        outputs=[TensorSpec(name="y", shape=(4, 16))],
    )
    got = OnnxRuntimeEngine(tmp_path / "g.onnx", facts, 1).run({"x": x})["y"]
    rounded = np.clip(np.rint(x / np.float32(0.02)), -128, 127) * np.float32(0.02)
    np.testing.assert_allclose(got, rounded @ (weights * np.float32(0.01)) + 0.5, atol=1e-3)
    operators = {node.operator for node in _onnxruntime(tmp_path / "g.onnx", {"x": x})}
    assert "MatMulIntegerToFloat" in operators
    assert not {"Gemm", "MatMul", "DequantizeLinear"} & operators
