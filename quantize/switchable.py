"""A graph with a switch at each layer: int8 or not, decided call by call, compiled once.

One pass over real clips measures ranges; one compiled graph then answers what any choice of layers
costs. It simulates W8A8 with SmoothQuant (arXiv:2211.10438): per column for weights, per tensor for
activations. The engine's real int8 is measured afterwards; this only finds out what to ask for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, Tensors
from jepa_edge.quantize.int8 import kept_patterns
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.runtimes.parity import JUDGED

SWITCHES = "int8_switches"
LEVELS = 256
TINY = 1e-9


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """What one pass shows of an activation that int8 would round.

    Attributes:
        layer: the one it goes into.
        largest: over all its values.
        outlier_ratio: the largest channel over the median channel; SmoothQuant is for above ~20.
        outlier_channels: how many channels reach 20 times the median.
        snr_db: of rounding it as the recipe would, after smoothing.
        snr_plain_db: of rounding it without smoothing.
    """

    layer: str
    largest: float
    outlier_ratio: float
    outlier_channels: int
    snr_db: float
    snr_plain_db: float


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A matrix product that can be int8: its name and its multiply-adds in one call."""

    name: str
    macs: int


class _Site(msgspec.Struct, kw_only=True):
    """A layer in the graph: the node, its activation inputs, its matrix `[K, N]` if constant."""

    name: str
    node: Any
    places: list[int]
    matrix: FloatArray | None
    turned: bool
    macs: int


OUTLIER = 20.0


class Switchable:
    """`graph` (an OpenVINO model, fp32, left as it is), compiled with its switches.

    Attributes:
        layers: in the order of the graph.
        tensors: one for each activation that a layer rounds.
        exact: fp32 outputs for each of `feeds`.
    """

    def __init__(self, graph: Any, feeds: Sequence[Tensors], recipe: Recipe) -> None:  # noqa: ANN401
        model = graph.clone()
        sites = _sites(model, kept_patterns(model, recipe))
        self._feeds, self._recipe = list(feeds), recipe
        self.layers = [Layer(name=site.name, macs=site.macs) for site in sites]
        self.ranges, self.exact = _ranges(model, sites, self._feeds)
        self.tensors = [t for site in sites for t in _tensors(site, self.ranges, recipe)]
        _add_switches(model, sites, self.ranges, recipe)
        self._request = _compiled(model).create_infer_request()
        self._names = [layer.name for layer in self.layers]

    def outputs(self, int8: Collection[str]) -> list[Tensors]:
        """Outputs for each of the feeds, with the layers named `int8` in int8, the others not."""
        switches = np.array([name in int8 for name in self._names], np.float32)
        return [_infer(self._request, feed | {SWITCHES: switches}) for feed in self._feeds]


Ranges = dict[tuple[str, int], tuple[FloatArray, FloatArray, Any]]
"""Least and largest value per channel by (layer, input), and seen values, thinned out."""


def _sites(model: Any, kept: Sequence[str]) -> list[_Site]:  # noqa: ANN401
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if node.get_type_name() != "MatMul" or any(re.search(p, name) for p in kept):
            continue
        matrix = _constant(node.input_value(1))
        turned = bool(node.get_attributes().get("transpose_b", False))
        if matrix is None and _after_softmax(node):
            continue
        if matrix is not None and (matrix.ndim != 2 or node.get_attributes().get("transpose_a")):
            continue
        shape = list(node.input_value(0).get_shape())
        columns = list(node.output(0).get_shape())[-1]
        found.append(
            _Site(
                name=name.removesuffix("/MatMul"),
                node=node,
                places=[0] if matrix is not None else [0, 1],
                matrix=matrix,
                turned=turned,
                macs=int(np.prod(shape)) * int(columns),
            )
        )
    return found


def _constant(source: Any) -> FloatArray | None:  # noqa: ANN401
    node = source.get_node()
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return np.array(node.data, np.float32) if node.get_type_name() == "Constant" else None


def _after_softmax(node: Any) -> bool:  # noqa: ANN401
    return bool(node.input_value(0).get_node().get_type_name() == "Softmax")


def _ranges(
    model: Any,  # noqa: ANN401
    sites: Sequence[_Site],
    feeds: Sequence[Tensors],
) -> tuple[Ranges, list[Tensors]]:
    """Per-channel ranges of every activation, and the outputs, in one pass over the feeds."""
    import openvino.opset13 as ops
    from openvino import Model

    ports, results = [], list(model.get_results())
    for site in sites:
        for place in site.places:
            source = site.node.input_value(place)
            axes = np.arange(len(source.get_shape()) - 1)
            ports.append((site.name, place))
            results += [
                ops.result(ops.reduce_min(source, axes)),
                ops.result(ops.reduce_max(source, axes)),
                ops.result(source),
            ]
    watched = Model(results, model.get_parameters(), "watched")
    request = _compiled(watched).create_infer_request()
    count = len(model.get_results())
    ranges: Ranges = {}
    exact = []
    for feed in feeds:
        values = list(request.infer(dict(feed)).values())
        names = [_name(out) for out in model.outputs]
        exact.append({n: np.array(v) for n, v in zip(names, values[:count], strict=True)})
        for k, port in enumerate(ports):
            low, high, seen = (np.array(v) for v in values[count + 3 * k : count + 3 * k + 3])
            rows = seen.reshape(-1, seen.shape[-1])
            thin = rows[:: max(1, len(rows) // 64)]
            if port in ranges:
                before = ranges[port]
                low, high = np.minimum(low, before[0]), np.maximum(high, before[1])
                thin = np.concatenate((before[2], thin))[:1024]
            ranges[port] = (low, high, thin)
    return ranges, exact


def _smoothing(site: _Site, ranges: Ranges, alpha: float) -> FloatArray:
    """SmoothQuant's divisor of each input channel `[K]`."""
    low, high, _ = ranges[site.name, 0]
    if site.matrix is None or alpha < 0:
        return np.ones_like(low)
    peak = np.maximum(np.maximum(-low, high), 1e-5)
    rows = np.abs(_rows(site)).max(1)
    scale = peak**alpha / np.maximum(rows, 1e-5) ** (1 - alpha)
    found: FloatArray = np.maximum(scale, 1e-5).astype(np.float32)
    return found


def _rows(site: _Site) -> FloatArray:
    assert site.matrix is not None
    return site.matrix.T if site.turned else site.matrix


def _grid(low: FloatArray, high: FloatArray, recipe: Recipe) -> tuple[float, float]:
    """The ends of one int8 grid over all channels."""
    bottom, top = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    if recipe.symmetric:
        top = max(-bottom, top, TINY)
        return -top * 128 / 127, top
    return bottom, max(top, bottom + TINY)


def _rounded(array: FloatArray, low: float, high: float) -> FloatArray:
    step = (high - low) / (LEVELS - 1)
    out = np.round((np.clip(array, low, high) - low) / step) * step + low
    return out.astype(np.float32)


def _tensors(site: _Site, ranges: Ranges, recipe: Recipe) -> list[Tensor]:
    found = []
    for place in site.places:
        low, high, seen = ranges[site.name, place]
        peak = np.maximum(np.maximum(-low, high), TINY)
        middle = max(float(np.median(peak)), TINY)
        scale = _smoothing(site, ranges, recipe.smooth_alpha) if place == 0 else np.ones_like(low)
        found.append(
            Tensor(
                layer=site.name,
                largest=float(peak.max()),
                outlier_ratio=round(float(peak.max()) / middle, 2),
                outlier_channels=int((peak > OUTLIER * middle).sum()),
                snr_db=_snr_db(seen, low, high, scale, recipe),
                snr_plain_db=_snr_db(seen, low, high, np.ones_like(low), recipe),
            )
        )
    return found


def _snr_db(
    seen: FloatArray, low: FloatArray, high: FloatArray, scale: FloatArray, recipe: Recipe
) -> float:
    """Of the median channel: an outlier's own energy must not hide what it does to the others."""
    bottom, top = _grid(low / scale, high / scale, recipe)
    noise = ((_rounded(seen / scale, bottom, top) * scale - seen) ** 2).mean(0)
    ratio = (seen**2).mean(0) / np.maximum(noise, 1e-20)
    return round(float(10 * np.log10(max(float(np.median(ratio)), 1e-6))), 2)


def _add_switches(
    model: Any,  # noqa: ANN401
    sites: Sequence[_Site],
    ranges: Ranges,
    recipe: Recipe,
) -> None:
    import openvino.opset13 as ops

    parameter = ops.parameter([max(len(sites), 1)], np.float32, name=SWITCHES)
    parameter.output(0).set_names({SWITCHES})
    for index, site in enumerate(sites):
        switch = ops.gather(parameter, np.int32(index), np.int32(0))
        scale = _smoothing(site, ranges, recipe.smooth_alpha)
        for place in site.places:
            source = site.node.input_value(place)
            low, high, _ = ranges[site.name, place]
            divisor = scale if place == 0 else np.ones_like(low)
            bottom, top = _grid(low / divisor, high / divisor, recipe)
            ends = [np.float32(bottom), np.float32(top)] * 2
            small = ops.fake_quantize(ops.divide(source, divisor), *ends, LEVELS)
            change = ops.subtract(ops.multiply(small, divisor), source)
            site.node.input(place).replace_source_output(
                ops.add(source, ops.multiply(change, switch)).output(0)
            )
        if site.matrix is not None:
            change = ops.multiply(ops.constant(_weight_change(site, scale)), switch)
            whole = ops.add(ops.constant(site.matrix), change)
            site.node.input(1).replace_source_output(whole.output(0))
    model.add_parameters([parameter])
    model.validate_nodes_and_infer_types()


def _weight_change(site: _Site, scale: FloatArray) -> FloatArray:
    """What int8 adds to the matrix, in its own layout."""
    rows = _rows(site)
    smoothed = rows * scale[:, None]
    step = np.maximum(np.abs(smoothed).max(0), TINY) / 127
    change = np.round(smoothed / step) * step / scale[:, None] - rows
    return np.ascontiguousarray(change.T if site.turned else change, np.float32)


def _compiled(model: Any) -> Any:  # noqa: ANN401
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": "f32", "EXECUTION_MODE_HINT": "ACCURACY"}
    return ov.Core().compile_model(model, "CPU", options)


def _infer(request: Any, feed: Tensors) -> Tensors:  # noqa: ANN401
    results = request.infer(feed)
    return {_name(port): np.array(value) for port, value in results.items()}


def _name(port: Any) -> str:  # noqa: ANN401
    """The name that a bundle knows an output by; the graph may have others for it."""
    names: set[str] = port.get_names()
    return next((name for name in JUDGED if name in names), min(names))
