"""How a graph is quantized, as typed data: one TOML file each, under ``recipes/`` or your own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from jepa_edge.bundle import EngineName, Hint
from jepa_edge.contract import PRECISIONS, InputError, WrongUseError
from jepa_edge.devices.targets import Target

Island = Literal["norm", "softmax", "residual"]
ENGINES = "engines"
FLOATS: dict[Hint, str] = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
"""The precision that a target must run for a recipe's floats."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of the weights, the activations, and what stays in floating point.

    Attributes:
        weights: of matrix products and convolutions.
        activations: what goes into them; ``float`` with small weights is weight-only.
        floats: the type of all that is not quantized; of OpenVINO, what it computes floats in.
        islands: what an ONNX graph computes in fp32 among half floats.
        symmetric: zero points of 0, the only ones that TensorRT's parser takes.
        half_range: int8 weights from -64 to 63 only. Processors with AVX2 and without VNNI add two
            products in 16 bits, where full ones overflow and are cut off, without a word.
        ranges: of activations: the mean of what the samples reach, which cuts off what few of them
            do, or the widest.
        smooth_alpha: how far outliers move from activations to weights (SmoothQuant,
            arXiv:2211.10438), 0 to 1; -1 leaves them.
        float_embeddings: keep patch embeddings in floating point.
        float_heads: keep what makes the pooled latents in floating point.
        float_layers: keep the layers whose names match one of these regular expressions.
        float_graphs: keep these graphs whole in floating point, in fp32 where floats are bf16.
        group: rows of a matrix that share one int4 scale; 0: all of them.
        samples: calibration calls used at the most, spread over all of them.
    """

    weights: Literal["float", "int8", "int4", "fp8"] = "float"
    activations: Literal["float", "int8", "fp8"] = "float"
    floats: Hint = "f32"
    islands: tuple[Island, ...] = ()
    symmetric: bool = False
    half_range: bool = False
    ranges: Literal["mean", "widest"] = "mean"
    smooth_alpha: float = 0.5
    float_embeddings: bool = True
    float_heads: bool = True
    float_layers: tuple[str, ...] = ()
    float_graphs: tuple[str, ...] = ()
    group: int = 32
    samples: int = 128

    def of_graph(self, name: str) -> Recipe:
        """What becomes of the graph called `name`."""
        if name.partition("@")[0] not in self.float_graphs:  # NAME@SIZE is batched
            return self
        floats: Hint = "f32" if self.floats == "bf16" else self.floats
        return msgspec.structs.replace(self, weights="float", activations="float", floats=floats)

    @property
    def needs_clips(self) -> bool:
        """Whether ranges are measured on calibration clips."""
        return self.activations != "float"

    @property
    def needs(self) -> list[str]:
        """The precisions that a target must run."""
        found = [FLOATS[self.floats]]
        if self.activations != "float":
            return [*found, self.activations]
        return found if self.weights == "float" else [*found, f"{self.weights}w"]


def recipe_for(precision: str, engine: EngineName) -> Recipe:
    """The shipped recipe of `precision` for `engine`. Raises `WrongUseError` if there is none."""
    file = resources.files("jepa_edge.quantize") / "recipes" / f"{precision}.toml"
    if precision not in PRECISIONS or not file.is_file():
        raise WrongUseError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    return _decoded(file.read_bytes(), engine, f"recipe {precision}.toml")


def read_recipe(path: Path, engine: EngineName) -> Recipe:
    """The recipe in the TOML file at `path`. Raises `InputError` if it cannot be read."""
    if not path.is_file():
        raise InputError(f"no recipe at {path}; give a TOML file like those under quantize/recipes")
    return _decoded(path.read_bytes(), engine, str(path))


def check_legal(recipe: Recipe, precision: str, target: Target) -> None:
    """Raises `WrongUseError`, with the reason, for what `target` cannot run."""
    target.legal(precision)
    for needed in recipe.needs:
        if needed not in target.precisions:
            target.legal(needed)
    if target.engine == "tensorrt" and recipe.activations == "int8" and not recipe.symmetric:
        raise WrongUseError(
            f"{target.name}: TensorRT's parser takes int8 with zero points of 0 only; set "
            "symmetric = true in the recipe"
        )
    if (recipe.activations == "fp8") != (recipe.weights == "fp8"):
        raise WrongUseError("fp8 goes for weights and activations together")
    if recipe.activations == "int8" and recipe.weights != "int8":
        raise WrongUseError(
            f"int8 activations go with int8 weights, not with {recipe.weights}: no engine "
            "multiplies the two"
        )


def with_float_norms(recipe: Recipe) -> Recipe:
    """`recipe` with norms and the residual stream in fp32 among half floats."""
    islands: tuple[Island, ...] = tuple(dict.fromkeys((*recipe.islands, "norm", "residual")))
    return msgspec.structs.replace(recipe, islands=islands)


def _decoded(raw: bytes, engine: EngineName, where: str) -> Recipe:
    try:
        fields: dict[str, Any] = msgspec.toml.decode(raw)
        by_engine = fields.pop(ENGINES, {})
        return msgspec.convert(fields | by_engine.get(engine, {}), Recipe)
    except (msgspec.MsgspecError, AttributeError) as error:
        raise InputError(f"{where}: {error}") from error
