"""e4m3 weights and activations as explicit Q/DQ in ONNX, ranges measured in ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.contract import Tensors

LARGEST = 448.0
"""Of e4m3 without infinities (Micikevicius et al., arXiv:2209.05433)."""


def fp8_graph(
    graph: onnx.ModelProto, feeds: Sequence[Tensors], kept: Sequence[str] = ()
) -> onnx.ModelProto:
    """A copy of `graph` with matrix products by constants in e4m3.

    Weights get one scale per column, activations one per tensor, from the largest value seen:
    e4m3 is finest near zero, so outliers cost it little and nothing needs smoothing.

    Args:
        graph: fp32.
        feeds: inputs of real calls.
        kept: patterns of the names of nodes that stay as they are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    weights = {init.name: init for init in model.graph.initializer}
    layers = [
        node
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and not any(re.search(pattern, node.name) for pattern in kept)
    ]
    peaks = _peaks(graph, sorted({node.input[0] for node in layers}), feeds)
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    chosen = {id(node) for node in layers}
    for node in model.graph.node:
        if id(node) in chosen:
            given, matrix = node.input
            if given not in done:
                nodes += _round_trip(model, given, peaks[given] / LARGEST)
            if matrix not in done:
                nodes.append(_small_matrix(model, weights[matrix]))
            done |= {given, matrix}
            node.input[:] = [f"{given}/e4m3", f"{matrix}/e4m3"]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    inits = [init for init in model.graph.initializer if init.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(inits)
    return model


def _peaks(
    graph: onnx.ModelProto, tensors: Sequence[str], feeds: Sequence[Tensors]
) -> dict[str, float]:
    """The largest size of each tensor over all feeds."""
    import onnxruntime as ort

    model = onnx.ModelProto()
    model.CopyFrom(graph)
    del model.graph.output[:]
    for name in tensors:
        model.graph.node.append(helper.make_node("Abs", [name], [f"{name}/abs"]))
        model.graph.node.append(
            helper.make_node("ReduceMax", [f"{name}/abs"], [f"{name}/peak"], keepdims=0)
        )
        model.graph.output.append(
            helper.make_tensor_value_info(f"{name}/peak", TensorProto.FLOAT, [])
        )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = np.array([session.run(None, dict(feed)) for feed in feeds], np.float32).max(0)
    return {name: max(float(peak), 1e-9) for name, peak in zip(tensors, seen, strict=True)}


def _round_trip(model: onnx.ModelProto, name: str, scale: float) -> list[onnx.NodeProto]:
    scale_name, zero = f"{name}/e4m3_scale", "e4m3_zero"
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), scale_name))
    if all(init.name != zero for init in model.graph.initializer):
        model.graph.initializer.append(
            numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), zero)
        )
    small, back = f"{name}/e4m3_small", f"{name}/e4m3"
    return [
        helper.make_node("QuantizeLinear", [name, scale_name, zero], [small], name=small),
        helper.make_node("DequantizeLinear", [small, scale_name, zero], [back], name=back),
    ]


def _small_matrix(model: onnx.ModelProto, weight: onnx.TensorProto) -> onnx.NodeProto:
    array = numpy_helper.to_array(weight)
    scale = np.maximum(np.abs(array).max(0), 1e-12).astype(np.float32) / LARGEST
    small = np.clip(array / scale, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    out = f"{weight.name}/e4m3"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(small, f"{out}_matrix"),
            numpy_helper.from_array(scale, f"{out}_scale"),
        ]
    )
    return helper.make_node(
        "DequantizeLinear", [f"{out}_matrix", f"{out}_scale"], [out], axis=1, name=out
    )
