"""int8 weights and activations through NNCF, for OpenVINO and as explicit Q/DQ ONNX."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from jepa_edge.contract import MissingExtraError
from jepa_edge.model.feeds import Tensors
from jepa_edge.quantize.recipe import Recipe

OPENVINO = Recipe(symmetric=False)
EXPLICIT_QDQ = Recipe(symmetric=True)
"""What TensorRT parses: int8 with zero points of 0 (ONNX Runtime runs the same graph)."""


def int8_graph(graph: Any, feeds: list[Tensors], recipe: Recipe) -> Any:  # noqa: ANN401
    """`graph` (an OpenVINO or ONNX model) in static int8, calibrated on `feeds`.

    Raises `MissingExtraError` without NNCF.
    """
    try:
        import nncf
    except ImportError as error:
        raise MissingExtraError("nncf", "export") from error
    nncf.set_log_level(logging.ERROR)
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=recipe.smooth_alpha)
    preset = nncf.QuantizationPreset
    count = min(len(feeds), recipe.samples)
    spread = [feeds[int(i)] for i in np.linspace(0, len(feeds) - 1, count)]  # of every clip
    ignored = None
    if recipe.float_patterns:
        ignored = nncf.IgnoredScope(patterns=list(recipe.float_patterns), validate=False)
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
