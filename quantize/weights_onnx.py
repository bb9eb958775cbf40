"""Weight-only int8 and int4 in ONNX: smaller files, less traffic, activations as they are."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from jepa_edge.quantize.recipe import Recipe

INT4_OPSET = 21
"""From here ONNX has int4 and scales for blocks of rows."""
CLIPS = np.linspace(0.7, 1.0, 13, dtype=np.float32)
"""Shares of the largest weight tried as the end of the int4 grid."""


def small_weights(graph: onnx.ModelProto, recipe: Recipe, kept: Sequence[str]) -> onnx.ModelProto:
    """A copy of `graph` whose matrices `[K, N]` are int8 (per column) or int4 (per block of rows).

    Args:
        graph: fp32.
        recipe: weight-only.
        kept: patterns of the names of nodes that stay as they are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    weights = {init.name: init for init in model.graph.initializer}
    made: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        name = node.input[1] if node.op_type == "MatMul" else ""
        is_kept = any(re.search(pattern, node.name) for pattern in kept)
        if name in weights and len(weights[name].dims) == 2 and not is_kept:
            if name not in made:
                made[name] = f"{name}/small"
                nodes.append(_dequantized(model, weights[name], recipe, made[name]))
            node.input[1] = made[name]
        nodes.append(node)
    used = {name for node in nodes for name in node.input}
    inits = [init for init in model.graph.initializer if init.name in used]
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(inits)
    if recipe.weights == "int4":
        model = onnx.version_converter.convert_version(model, INT4_OPSET)
    return model


def _dequantized(
    model: onnx.ModelProto, weight: onnx.TensorProto, recipe: Recipe, out: str
) -> onnx.NodeProto:
    """Adds the small matrix and its scales to `model`; the node that gives it back as float."""
    array = numpy_helper.to_array(weight)
    if recipe.weights == "int8":
        scale = np.maximum(np.abs(array).max(0), 1e-12).astype(np.float32) / 127
        small = numpy_helper.from_array(np.round(array / scale).astype(np.int8), f"{out}/int8")
        node = helper.make_node("DequantizeLinear", [], [out], axis=1)
    else:
        group = block_rows(array.shape[0], recipe.group or array.shape[0])
        numbers, scale = int4_blocks(array, group)
        small = helper.make_tensor(
            f"{out}/int4", TensorProto.INT4, array.shape, numbers.ravel().tolist()
        )
        node = helper.make_node("DequantizeLinear", [], [out], axis=0, block_size=group)
    scales = numpy_helper.from_array(scale, f"{out}/scale")
    model.graph.initializer.extend([small, scales])
    node.name = out
    node.input.extend([small.name, scales.name])
    return node


def block_rows(rows: int, wanted: int) -> int:
    """The largest number of rows up to `wanted` that splits `rows` evenly."""
    return next(size for size in range(min(wanted, rows), 0, -1) if rows % size == 0)


def int4_blocks(
    array: npt.NDArray[np.float32], group: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Numbers `[K, N]` from -8 to 7 and scales `[K / group, N]`, with the least squared error.

    The end of the grid is searched: rounding all weights better may be worth cutting the largest.
    """
    blocks = array.reshape(-1, group, array.shape[1])
    peak = np.maximum(np.abs(blocks).max(1, keepdims=True), 1e-12)
    best = np.full_like(peak, np.inf)
    chosen = peak / 7
    for share in CLIPS:
        scale = peak * share / 7
        error = ((np.clip(np.round(blocks / scale), -8, 7) * scale - blocks) ** 2).sum(
            1, keepdims=True
        )
        better = error < best
        best, chosen = np.where(better, error, best), np.where(better, scale, chosen)
    numbers = np.clip(np.round(blocks / chosen), -8, 7).astype(np.int8)
    return numbers.reshape(array.shape), chosen[:, 0].astype(np.float32)
