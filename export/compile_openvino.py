"""ONNX → OpenVINO IR."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import msgspec
import onnx

from jepa_edge.contract import MissingExtraError
from jepa_edge.export.trace import embedding_patterns
from jepa_edge.model.feeds import Tensors
from jepa_edge.quantize.int8 import OPENVINO, int8_graph

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

HINTS = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""What the CPU computes floating-point parts in; fp16 weights are computed with in f32."""


def write_openvino(
    graph: onnx.ModelProto, precision: str, feeds: list[Tensors], path: Path
) -> Path:
    """Writes `path` with suffix ``.xml`` (and its ``.bin``) in `precision`; returns it."""
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    model: Any = ov.Core().read_model(io.BytesIO(graph.SerializeToString()))
    if precision == "int8":
        model = int8_graph(
            model,
            feeds,
            msgspec.structs.replace(OPENVINO, float_patterns=embedding_patterns(graph)),
        )
    file = path.with_suffix(".xml")
    ov.save_model(model, str(file), compress_to_fp16=precision in ("fp16", "bf16"))
    return file
