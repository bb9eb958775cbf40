"""Explicit Q/DQ ONNX made fit for TensorRT: what may be int8 there, and scales folded away."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

SMOOTH = "/nncf_smooth_quant"


def long_attention(graph: onnx.ModelProto, limit: int) -> tuple[str, ...]:
    """Patterns of the attention products over more than `limit` tokens; none if `limit` is 0.

    TensorRT fuses int8 attention up to 512 tokens only: quantizers there would tear the fused fp16
    kernel apart and make it slower (NVIDIA/TensorRT#3724; Model Optimizer leaves them out too).
    """
    if not limit:
        return ()
    inferred = shape_inference.infer_shapes(graph, data_prop=True).graph
    shapes = {
        port.name: [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    constant = {init.name for init in inferred.initializer}
    found = []
    for node in inferred.node:
        if node.op_type != "MatMul" or set(node.input) & constant:
            continue
        longest = max((max(shapes.get(name, [0])[-2:]) for name in node.input), default=0)
        if longest > limit:
            found.append(f"^{re.escape(node.name)}$")
    return tuple(found)


def fold_smoothing(graph: onnx.ModelProto) -> int:
    """Multiplies SmoothQuant's scales into the LayerNorms before them, in place; how many.

    NNCF leaves one multiplication before each smoothed matrix; after a LayerNorm that feeds nothing
    else it is the same as other gains and shifts, and one kernel less.
    """
    readers = Counter(name for node in graph.graph.node for name in node.input)
    readers.update(port.name for port in graph.graph.output)
    makers = {out: node for node in graph.graph.node for out in node.output}
    smoothing = [n for n in graph.graph.node if n.op_type == "Mul" and n.name.endswith(SMOOTH)]
    folded = [
        node
        for node in smoothing
        if readers[node.input[0]] == 1 and _scaled_norm(graph, makers.get(node.input[0]), node)
    ]
    for node in folded:
        graph.graph.node.remove(node)
    _drop_unused(graph)
    return len(folded)


def _scaled_norm(
    graph: onnx.ModelProto, norm: onnx.NodeProto | None, scaling: onnx.NodeProto
) -> bool:
    """Gives `norm` the gains and shifts that make `scaling` needless; False if they cannot."""
    if norm is None or norm.op_type != "LayerNormalization":
        return False
    weights = {init.name: init for init in graph.graph.initializer}
    scale = numpy_helper.to_array(weights[scaling.input[1]]).ravel()
    own = [numpy_helper.to_array(weights[name]) for name in norm.input[1:]]
    if any(array.ndim != 1 or scale.size not in (1, array.size) for array in own):
        return False
    for place, array in enumerate(own, start=1):
        name = f"{norm.input[place]}/{scaling.name}"
        scaled = numpy_helper.from_array((array * scale).astype(np.float32), name)
        graph.graph.initializer.append(scaled)
        norm.input[place] = name
    norm.output[0] = scaling.output[0]
    return True


def _drop_unused(graph: onnx.ModelProto) -> None:
    used = {name for node in graph.graph.node for name in node.input}
    used |= {port.name for port in graph.graph.output}
    inits = [init for init in graph.graph.initializer if init.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(inits)
