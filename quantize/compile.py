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
from jepa_edge.quantize.int8 import int8_graph, kept_patterns, small_weights, spread_over
from jepa_edge.quantize.recipe import Recipe, recipe_for

if TYPE_CHECKING:
    import onnx

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")


def hint_for(engine: EngineName, recipe: Recipe) -> Hint:
    """What `engine` must be told to really compute floats in: fp16 weights are widened to f32."""
    return "bf16" if engine == "openvino" and recipe.floats == "bf16" else "f32"


def read_graph(engine: EngineName, source: Path | onnx.ModelProto) -> Any:  # noqa: ANN401
    """The graph that `quantized` takes: an OpenVINO model for OpenVINO, else an ONNX one.

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


def quantized(
    engine: EngineName,
    graph: Any,  # noqa: ANN401
    recipe: Recipe,
    samples: Sequence[Tensors],
    *,
    attention_tokens: int = 0,
) -> Any:  # noqa: ANN401
    """`graph` (fp32, of `read_graph`, left as it is) as `recipe` says, for `engine`.

    Attention over more than `attention_tokens` tokens stays in floating point (0: any is int8).

    An ONNX file is taken as it is: it was traced in its precision.

    Raises `WrongUseError` for ranges without `samples`, inputs of real calls.
    """
    if isinstance(graph, Path):
        return graph
    if recipe.needs_clips and not samples:
        raise WrongUseError("these ranges need calibration clips")
    if engine == "openvino":
        if recipe.activations == "int8":
            return int8_graph(graph, samples, recipe)
        if recipe.weights != "float":
            return small_weights(graph, recipe)
        return graph
    return _typed(_quantized_onnx(graph, recipe, samples, attention_tokens), recipe)


def _quantized_onnx(
    graph: onnx.ModelProto, recipe: Recipe, samples: Sequence[Tensors], attention_tokens: int
) -> onnx.ModelProto:
    from jepa_edge.quantize.fp8 import fp8_graph
    from jepa_edge.quantize.qdq import fold_smoothing, long_attention
    from jepa_edge.quantize.weights_onnx import small_weights as small_weights_onnx

    if recipe.activations == "int8":
        kept = long_attention(graph, attention_tokens)
        made: onnx.ModelProto = int8_graph(graph, samples, recipe, kept)
        fold_smoothing(made)
        return made
    kept = kept_patterns(graph, recipe)
    if recipe.activations == "fp8":
        return fp8_graph(graph, spread_over(samples, recipe.samples), kept)
    return small_weights_onnx(graph, recipe, kept) if recipe.weights != "float" else graph


def _typed(graph: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
    from jepa_edge.quantize.typed import typed_graph

    if recipe.floats == "f32":
        return graph
    return typed_graph(graph, recipe.floats, recipe.islands)


def write_graph(
    engine: EngineName,
    graph: Any,  # noqa: ANN401
    precision: str,
    samples: Sequence[Tensors],
    stem: Path,
) -> Path:
    """Writes `graph` in `precision`, by its shipped recipe, beside `stem`; see `save_graph`."""
    recipe = recipe_for(precision, engine)
    return save_graph(engine, quantized(engine, graph, recipe, samples), recipe, stem)


def save_graph(
    engine: EngineName,
    graph: Any,  # noqa: ANN401
    recipe: Recipe,
    stem: Path,
) -> Path:
    """Writes the graph (a file is copied) beside `stem`, with the engine's suffix; where it is.

    OpenVINO writes ``.xml`` and ``.bin``.
    """
    if isinstance(graph, Path):
        return _copied(graph, stem)
    if engine == "openvino":
        import openvino as ov

        file = stem.with_suffix(".xml")
        halved = recipe.weights == "float" and recipe.floats != "f32"
        ov.save_model(graph, str(file), compress_to_fp16=halved)
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
