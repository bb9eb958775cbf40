"""int8 where it does no harm: a graph's recipe from what was measured of its layers."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import Check, file_sha256
from jepa_edge.contract import MissingExtraError, Tensors
from jepa_edge.quantize.cache import Cache, digest_of, key_of
from jepa_edge.quantize.compile import read_graph
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.quantize.sensitivity import Budget, Sensitivity, sensitivity


def analysed(
    name: str,
    graph: Any,  # noqa: ANN401
    samples: Sequence[Tensors],
    recipe: Recipe,
    budget: Budget,
    cache: Cache,
) -> Sensitivity:
    """`sensitivity` of an fp32 OpenVINO or ONNX graph, from the cache where it was asked before.

    Raises `MissingExtraError` without OpenVINO, in which every target's graphs are analysed.
    """
    digest = graph_digest(graph)
    if hasattr(graph, "graph"):
        graph = read_graph("openvino", graph)
    key = key_of("sensitivity", name, digest, digest_of(samples), recipe, budget)
    return cache.value(key, Sensitivity, lambda: sensitivity(name, graph, samples, recipe, budget))


def recipe_from(found: Sensitivity, recipe: Recipe) -> Recipe:
    """`recipe` with the tuned smoothing, and the layers in float that were found to need it."""
    patterns = tuple(f"^{re.escape(name)}(/.*)?$" for name in found.chosen.float_layers)
    return msgspec.structs.replace(
        recipe, smooth_alpha=found.smooth_alpha, float_layers=(*recipe.float_layers, *patterns)
    )


def check_from(found: Sensitivity) -> Check:
    """What the manifest says of the choice."""
    point = found.chosen
    kept = ", ".join(point.float_layers) or "none"
    smoothing = "without SmoothQuant"
    if found.smooth_alpha >= 0:
        smoothing = f"SmoothQuant alpha {found.smooth_alpha:g}"
    return Check(
        name="int8 chosen layer by layer",
        status="passed",
        detail=f"{point.int8_share:.1%} of the multiply-adds in int8, {smoothing}, "
        f"float: {kept}; foreseen drop {point.drop:.5f} on {found.calls} calibration calls",
    )


def graph_digest(graph: Any) -> str:  # noqa: ANN401
    """A hash of a graph's operators and constants, the same in every process."""
    if hasattr(graph, "graph"):
        return key_of(graph.SerializeToString(deterministic=True))
    try:
        from openvino import serialize
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        xml, weights = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        serialize(graph, str(xml), str(weights))
        return key_of(file_sha256(xml), file_sha256(weights))
