"""NNCF: static int8 for OpenVINO and as explicit Q/DQ ONNX; small weights for OpenVINO."""

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
from jepa_edge.quantize.segments import LARGE_BYTES, quantized_in_segments, weight_bytes

SENSES = ("video", "audio")
POOLED = ("pooled", "future_pooled")
NORMS = ("LayerNormalization", "MVN")
COUNT = "filled"
"""The input of a step graph that says how much of its memory is real."""
ATTENTION = ("Attention", "ScaledDotProductAttention")
CONVOLUTIONS = ("Convolution", "Conv")
WEIGHTED = (*CONVOLUTIONS, "MatMul", "Gemm")


def int8_graph(
    graph: Any,  # noqa: ANN401
    feeds: Sequence[Tensors],
    recipe: Recipe,
    kept: Sequence[str] = (),
) -> Any:  # noqa: ANN401
    """`graph` (an OpenVINO or ONNX model) in static int8, calibrated on `feeds`.

    Args:
        graph: fp32.
        feeds: inputs of real calls.
        recipe: of int8 weights and activations.
        kept: patterns of the names of nodes that stay in floating point, beside the recipe's.

    Raises `MissingExtraError` without NNCF.
    """
    patterns, spread = kept_patterns(graph, recipe, kept), spread_over(feeds, recipe.samples)
    if not hasattr(graph, "graph") and weight_bytes(graph) >= LARGE_BYTES:
        return quantized_in_segments(
            graph, spread, lambda part, given, first: _int8(part, given, recipe, patterns, first)
        )
    return _int8(graph, spread, recipe, patterns, first=True)


def _int8(
    graph: Any,  # noqa: ANN401
    spread: Sequence[Tensors],
    recipe: Recipe,
    patterns: Sequence[str],
    first: bool,
) -> Any:  # noqa: ANN401
    """A whole graph, or the `first` or a later segment of one."""
    nncf = _nncf()
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=recipe.smooth_alpha)
    preset, overflow = nncf.QuantizationPreset, nncf.OverflowFix
    narrow = overflow.FIRST_LAYER if first else overflow.DISABLE
    ranges = nncf.quantization.range_estimator
    activations = ranges.RangeEstimatorParameters()
    if recipe.ranges == "widest":
        activations = ranges.RangeEstimatorParametersSet.MINMAX
    ignored = None
    if patterns:
        ignored = nncf.IgnoredScope(patterns=list(patterns), validate=False)
    with _no_bars():
        return nncf.quantize(
            graph,
            nncf.Dataset(spread),
            subset_size=len(spread),
            preset=preset.PERFORMANCE if recipe.symmetric else preset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=ignored,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=smooth,
                activations_range_estimator_params=activations,
                quantize_outputs=False,
                overflow_fix=overflow.ENABLE if recipe.half_range else narrow,
            ),
        )


def small_weights(
    graph: Any,  # noqa: ANN401
    recipe: Recipe,
    kept: Sequence[str] = (),
) -> Any:  # noqa: ANN401
    """An OpenVINO model with int8 or int4 weights. Args and errors as `int8_graph`.

    Without NNCF's estimation of scales from activations: NNCF 3.4 writes the bits of its float16
    scales as 16-bit integers then, and the graph computes nonsense.
    """
    nncf = _nncf()
    patterns = list(kept_patterns(graph, recipe, kept))
    mode, extra = nncf.CompressWeightsMode.INT8_SYM, {}
    if recipe.weights == "int4":
        mode = nncf.CompressWeightsMode.INT4_SYM
        extra = {
            "ratio": 1.0,
            "all_layers": True,
            "group_size": recipe.group or -1,
            "advanced_parameters": nncf.AdvancedCompressionParameters(
                group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST,
                min_adjusted_group_size=4,
            ),
        }
    ignored = nncf.IgnoredScope(patterns=patterns, validate=False)
    with _no_bars():
        return nncf.compress_weights(graph.clone(), mode=mode, ignored_scope=ignored, **extra)


def kept_patterns(
    graph: Any,  # noqa: ANN401
    recipe: Recipe,
    kept: Sequence[str] = (),
) -> tuple[str, ...]:
    """Patterns of the names of all nodes of `graph` that stay in floating point."""
    patterns = (*recipe.float_layers, *kept, *mask_patterns(graph))
    if recipe.float_embeddings:
        patterns += embedding_patterns(graph)
    return patterns + head_patterns(graph) if recipe.float_heads else patterns


def spread_over(feeds: Sequence[Tensors], limit: int) -> list[Tensors]:
    """At most `limit` of `feeds`, some of every clip."""
    count = min(len(feeds), limit)
    return [feeds[int(i)] for i in np.linspace(0, len(feeds) - 1, count)]


def _nncf() -> Any:  # noqa: ANN401
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "export") from error
    nncf.set_log_level(logging.ERROR)
    return nncf


def embedding_patterns(graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Names (as patterns) of the first multiplication after each sense: its patch embedding.

    Of an embedding by several convolutions it is all of them.

    They stay in floating point under int8: the quiet bins of a spectrogram and flat picture
    patches fall between the steps of one 8-bit scale for a whole input. On nano this took the
    1st-percentile token cosine of the stream from 0.969 to 0.9996.

    Args:
        graph: an OpenVINO or ONNX model.
    """
    after = _consumers_in_onnx(graph) if hasattr(graph, "graph") else _consumers_in_openvino(graph)
    found: set[str] = set()
    waiting, met = [(name, False) for name in SENSES], set[str]()
    while waiting:
        tensor, embedded = waiting.pop()
        for node, kind, outputs in after.get(tensor, []):
            convolves = kind in CONVOLUTIONS
            if kind in WEIGHTED and (convolves or not embedded):
                found.add(f"^{re.escape(node)}(/.*)?$")
            if (convolves or kind not in WEIGHTED) and node not in met:
                met.add(node)
                waiting += [(output, embedded or convolves) for output in outputs]
    return tuple(sorted(found))


def mask_patterns(graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Names (as patterns) of what makes a stream's mask out of `filled`, and adds it to scores.

    A count on an 8-bit scale hides steps that are there: an int8 quantizer of the sum in attention
    moves up to the count itself, whose typical range is far below its largest value.

    Args:
        graph: an OpenVINO or ONNX model; one without a stream has no mask.
    """
    after = _consumers_in_onnx(graph) if hasattr(graph, "graph") else _consumers_in_openvino(graph)
    found: set[str] = set()
    waiting, met = [COUNT], set[str]()
    while waiting:
        for node, kind, outputs in after.get(waiting.pop(), []):
            if node in met or kind in ATTENTION:
                continue
            met.add(node)
            found.add(f"^{re.escape(node)}$")
            waiting += [] if kind == "Add" else outputs
    return tuple(sorted(found))


def head_patterns(graph: Any) -> tuple[str, ...]:  # noqa: ANN401
    """Names (as patterns) of the matrices between the last norm and the pooled latents.

    A planner steers by those few numbers, and they cost next to nothing: on the arm's pilot they
    are 2 % of the multiply-adds and nearly all of what int8 changed in its decisions.

    Args:
        graph: an OpenVINO or ONNX model; one without pooled latents has none.
    """
    is_onnx = hasattr(graph, "graph")
    after = _consumers_in_onnx(graph) if is_onnx else _consumers_in_openvino(graph)
    makers: dict[str, tuple[str, str]] = {}
    reads: dict[str, list[str]] = {}
    for tensor, nodes in after.items():
        for node, kind, outputs in nodes:
            reads.setdefault(node, []).append(tensor)
            makers |= dict.fromkeys(outputs, (node, kind))
    found: set[str] = set()
    waiting, met = _pooled_in(graph), set[str]()
    while waiting:
        node, kind = makers.get(waiting.pop(), ("", ""))
        if not node or node in met or kind in NORMS:
            continue
        met.add(node)
        waiting += reads[node]
        if kind in WEIGHTED:
            found.add(f"^{re.escape(node)}(/.*)?$")
    return tuple(sorted(found))


def _pooled_in(graph: Any) -> list[str]:  # noqa: ANN401
    """What the graph gives as pooled latents, as its nodes call it."""
    if hasattr(graph, "graph"):
        return [port.name for port in graph.graph.output if port.name in POOLED]
    results = [p.get_node() for p in graph.outputs if not p.get_names().isdisjoint(POOLED)]
    return [result.input_value(0).get_node().get_friendly_name() for result in results]


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
