"""Which layers int8 hurts, and which to leave in floating point under an accuracy budget."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, Tensors
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.quantize.switchable import Switchable, Tensor
from jepa_edge.runtimes.parity import JUDGED, compared

ALPHAS = (-1.0, 0.3, 0.5, 0.7, 0.85)
"""SmoothQuant strengths tried; -1 is without."""
CALLS = 8
"""Calibration calls that a graph's layers are judged by."""


class LayerEffect(msgspec.Struct, frozen=True, kw_only=True):
    """One layer: what it costs to have it alone in int8.

    Attributes:
        name: as in the graph's nodes.
        macs: multiply-adds of one call.
        error: relative L2 of the worst output with only this layer in int8.
        restored: by how much the error of the all-int8 graph falls with only this one in float.
    """

    name: str
    macs: int
    error: float
    restored: float


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of layers: what it costs and what it saves.

    Attributes:
        float_layers: the layers left in floating point.
        drop: 1 - mean token cosine of the worst output.
        p1: 1st-percentile token cosine of the worst output.
        int8_share: of the multiply-adds of all layers.
    """

    float_layers: list[str]
    drop: float
    p1: float
    int8_share: float


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found out about one graph.

    Attributes:
        graph: its name.
        smooth_alpha: SmoothQuant's strength, tuned.
        alphas: the drop of the all-int8 graph by strength.
        layers: the most sensitive first.
        tensors: of every activation that int8 rounds.
        points: every choice that was tried.
        chosen: the one within the budget with the most int8.
        calls: calibration calls that it was judged by.
    """

    graph: str
    smooth_alpha: float
    alphas: dict[str, float]
    layers: list[LayerEffect]
    tensors: list[Tensor]
    points: list[Point]
    chosen: Point
    calls: int

    @property
    def front(self) -> list[Point]:
        """The points that no other beats in both accuracy and int8 share."""
        ordered = sorted(self.points, key=lambda p: (-p.int8_share, p.drop))
        best, found = np.inf, []
        for point in ordered:
            if point.drop < best:
                found.append(point)
                best = point.drop
        return found


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much accuracy may go: 1 - mean token cosine at the most, and the least p1."""

    max_drop: float = 0.005
    least_p1: float = 0.97

    def holds(self, point: Point) -> bool:
        """Whether `point` is within it."""
        return point.drop <= self.max_drop and point.p1 >= self.least_p1


def sensitivity(
    name: str,
    graph: Any,  # noqa: ANN401
    feeds: Sequence[Tensors],
    recipe: Recipe,
    budget: Budget,
    alphas: Sequence[float] = ALPHAS,
) -> Sensitivity:
    """Tunes SmoothQuant, measures every layer, and searches the float layers of least cost.

    One graph is compiled for each strength of smoothing; every other question is a call of it.

    Args:
        name: of the graph.
        graph: an OpenVINO model, fp32.
        feeds: inputs of real calibration calls; never the held-out ones.
        recipe: of int8 weights and activations; its alpha is the first guess.
        budget: for the chosen point.
        alphas: strengths of smoothing to try beside the recipe's.
    """
    spread = [feeds[int(i)] for i in np.linspace(0, len(feeds) - 1, min(CALLS, len(feeds)))]
    tried: dict[str, float] = {}
    best: tuple[float, float, Switchable] | None = None
    for alpha in dict.fromkeys((recipe.smooth_alpha, *alphas)):
        switchable = Switchable(graph, spread, msgspec.structs.replace(recipe, smooth_alpha=alpha))
        drop = _Search(switchable).point(()).drop
        tried[f"{alpha:g}"] = drop
        if best is None or drop < best[0]:
            best = (drop, alpha, switchable)
    assert best is not None
    _, alpha, switchable = best
    search = _Search(switchable)
    layers = search.effects()
    chosen = search.within(budget, [layer.name for layer in layers])
    return Sensitivity(
        graph=name,
        smooth_alpha=alpha,
        alphas=tried,
        layers=layers,
        tensors=switchable.tensors,
        points=search.points,
        chosen=chosen,
        calls=len(spread),
    )


class _Search:
    """Asks a switchable graph, and keeps every answer."""

    def __init__(self, switchable: Switchable) -> None:
        self.switchable = switchable
        self.macs = {layer.name: layer.macs for layer in switchable.layers}
        self.points: list[Point] = []

    def point(self, float_layers: Collection[str]) -> Point:
        """The choice with `float_layers` in floating point, all others in int8."""
        for known in self.points:
            if set(known.float_layers) == set(float_layers):
                return known
        int8 = set(self.macs) - set(float_layers)
        parity = _compared(self.switchable.outputs(int8), self.switchable.exact)
        total = max(sum(self.macs.values()), 1)
        found = Point(
            float_layers=sorted(float_layers),
            drop=max((1 - p.cosine_mean for p in parity), default=0.0),
            p1=min((p.cosine_p1 for p in parity), default=1.0),
            int8_share=round(sum(self.macs[name] for name in int8) / total, 6),
        )
        self.points.append(found)
        return found

    def effects(self) -> list[LayerEffect]:
        """Every layer, the most sensitive first."""
        everything = self._error(set(self.macs))
        found = [
            LayerEffect(
                name=name,
                macs=macs,
                error=self._error({name}),
                restored=everything - self._error(set(self.macs) - {name}),
            )
            for name, macs in self.macs.items()
        ]
        return sorted(found, key=lambda one: -max(one.error, one.restored))

    def within(self, budget: Budget, ordered: list[str]) -> Point:
        """Fewest of the most sensitive layers in float by bisection, then int8 again where it can.

        Errors of layers add up almost independently, so the drop falls along the order.
        """
        low, high = 0, len(ordered)
        if not budget.holds(self.point(())):
            while low < high:
                middle = (low + high) // 2
                enough = budget.holds(self.point(ordered[:middle]))
                low, high = (low, middle) if enough else (middle + 1, high)
        else:
            high = 0
        kept = ordered[:high]
        for name in sorted(kept, key=lambda one: -self.macs[one]):
            fewer = [other for other in kept if other != name]
            if budget.holds(self.point(fewer)):
                kept = fewer
        for count in (1, 2, 4, 8, len(ordered) // 2, len(ordered)):
            self.point(ordered[: min(count, len(ordered))])
        return self.point(kept)

    def _error(self, int8: Collection[str]) -> float:
        parity = _compared(self.switchable.outputs(int8), self.switchable.exact)
        return max((p.relative_l2 for p in parity), default=0.0)


def _compared(ours: Sequence[Tensors], exact: Sequence[Tensors]) -> list[Any]:
    names = [name for name in JUDGED if name in exact[0]]
    return [compared(_rows(ours, name), _rows(exact, name)) for name in names]


def _rows(outputs: Sequence[Tensors], name: str) -> FloatArray:
    width = outputs[0][name].shape[-1]
    return np.concatenate([out[name].reshape(-1, width) for out in outputs])
