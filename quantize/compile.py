"""A graph in memory → a file in one precision, for each engine."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_edge.bundle import EngineName, Hint
from jepa_edge.contract import MissingExtraError, Tensors, WrongUseError
from jepa_edge.quantize.int8 import EXPLICIT_QDQ, OPENVINO, int8_graph

if TYPE_CHECKING:
    import onnx

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

HINTS: dict[str, Hint] = {"fp32": "f32", "fp16": "f32", "bf16": "bf16", "int8": "f32"}
"""What OpenVINO's CPU computes floats in; fp16 weights are computed with in f32."""


def hint_for(engine: EngineName, precision: str) -> Hint:
    """What `engine` must be told to really compute in `precision`."""
    return HINTS[precision] if engine == "openvino" else "f32"


def read_graph(engine: EngineName, source: Path | onnx.ModelProto) -> Any:  # noqa: ANN401
    """The graph that `write_graph` takes: an OpenVINO model for OpenVINO, else an ONNX one.

    Raises `MissingExtraError` without the engine's library.
    """
    if engine != "openvino":
        import onnx

        return onnx.load(str(source)) if isinstance(source, Path) else source
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    if isinstance(source, Path):
        return ov.Core().read_model(str(source))
    return ov.Core().read_model(io.BytesIO(source.SerializeToString()))


def write_graph(
    engine: EngineName,
    graph: Any,  # noqa: ANN401
    precision: str,
    samples: Sequence[Tensors],
    stem: Path,
) -> Path:
    """Writes `graph` in `precision` beside `stem`, with the engine's suffix; returns the file.

    Args:
        engine: whose format.
        graph: of `read_graph`, or an ONNX file that is written as it is. fp16 ONNX comes as such
            (strongly typed), it is not made here.
        precision: what to write.
        samples: inputs from real clips, for int8.
        stem: the file without its suffix; OpenVINO writes ``.xml`` and ``.bin``.

    Raises `WrongUseError` for int8 without samples.
    """
    if isinstance(graph, Path):
        return _copied(graph, stem)
    if precision == "int8":
        if not samples:
            raise WrongUseError("int8 needs calibration clips")
        recipe = OPENVINO if engine == "openvino" else EXPLICIT_QDQ
        graph = int8_graph(graph, samples, recipe)
    if engine == "openvino":
        import openvino as ov

        file = stem.with_suffix(".xml")
        ov.save_model(graph, str(file), compress_to_fp16=precision in ("fp16", "bf16"))
        return file
    import onnx

    file = stem.with_suffix(".onnx")
    onnx.save_model(graph, str(file))
    return file


def _copied(file: Path, stem: Path) -> Path:
    """An ONNX file and the weights beside it, under the same name: the graph refers to them."""
    for part in file.parent.glob(f"{file.name}*"):
        shutil.copy2(part, stem.parent / part.name)
    return stem.parent / file.name
