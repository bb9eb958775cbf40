"""int8 weights and activations through NNCF, for OpenVINO and as explicit Q/DQ ONNX."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jepa_edge.contract import MissingExtraError, Tensors
from jepa_edge.quantize.recipe import Recipe

SENSES = ("video", "audio")
WEIGHTED = ("Convolution", "Conv", "MatMul", "Gemm")

OPENVINO = Recipe(symmetric=False)
EXPLICIT_QDQ = Recipe(symmetric=True)
"""What TensorRT parses: int8 with zero points of 0 (ONNX Runtime runs the same graph)."""


def int8_graph(graph: Any, feeds: Sequence[Tensors], recipe: Recipe) -> Any:  # noqa: ANN401
    """`graph` (an OpenVINO or ONNX model) in static int8, calibrated on `feeds`.

    Raises `MissingExtraError` without NNCF.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "export") from error
    nncf.set_log_level(logging.ERROR)
    kept = recipe.float_patterns
    if recipe.float_embeddings:
        kept += embedding_patterns(graph)
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=recipe.smooth_alpha)
    preset = nncf.QuantizationPreset
    count = min(len(feeds), recipe.samples)
    spread = [feeds[int(i)] for i in np.linspace(0, len(feeds) - 1, count)]  # of every clip
    ignored = None
    if kept:
        ignored = nncf.IgnoredScope(patterns=list(kept), validate=False)
    with _no_bars():
        return nncf.quantize(
            graph,
            nncf.Dataset(spread),
            subset_size=len(spread),
            preset=preset.PERFORMANCE if recipe.symmetric else preset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=smooth, quantize_outputs=False
            ),
        )


def embedding_patterns(graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Names (as patterns) of the first multiplication after each sense: its patch embedding.

    They stay in floating point under int8: the quiet bins of a spectrogram and flat picture
    patches fall between the steps of one 8-bit scale for a whole input. On nano this took the
    1st-percentile token cosine of the stream from 0.969 to 0.9996.

    Args:
        graph: an OpenVINO or ONNX model.
    """
    after = _consumers_in_onnx(graph) if hasattr(graph, "graph") else _consumers_in_openvino(graph)
    found: set[str] = set()
    waiting = list(SENSES)
    while waiting:
        for node, kind, outputs in after.get(waiting.pop(), []):
            if kind in WEIGHTED:
                found.add(f"^{re.escape(node)}(/.*)?$")
            else:
                waiting += outputs
    return tuple(sorted(found))


Consumers = dict[str, list[tuple[str, str, list[str]]]]
"""By tensor: the (name, operator, outputs) of each node that reads it."""


def _consumers_in_onnx(graph: Any) -> Consumers:  # noqa: ANN401
    after: Consumers = {}
    for node in graph.graph.node:
        for name in node.input:
            after.setdefault(name, []).append((node.name, node.op_type, list(node.output)))
    return after


def _consumers_in_openvino(graph: Any) -> Consumers:  # noqa: ANN401
    after: Consumers = {}
    for node in graph.get_ordered_ops():
        name = node.get_friendly_name()
        for source in node.input_values():
            before = source.get_node().get_friendly_name()
            after.setdefault(before, []).append((name, node.get_type_name(), [name]))
    return after


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """NNCF draws its progress on stdout, where ``--json`` has the only word."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        yield
