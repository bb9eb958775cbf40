"""The best trades of a graph, made for real: how fast each runs, and how exact it is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Timing
from jepa_edge.bench.measure import interleaved, timing_from
from jepa_edge.bundle import Graph
from jepa_edge.devices.targets import Target
from jepa_edge.quantize.cache import Cache
from jepa_edge.quantize.compile import hint_for
from jepa_edge.quantize.measured import Job, made
from jepa_edge.quantize.mixed import recipe_from
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.quantize.sensitivity import Point, Sensitivity
from jepa_edge.runtimes.engine import host_engine

MOST = 5
"""Choices of layers that are made and timed."""
ROUNDS = 20
Told = Callable[[str], None]


class Trade(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of layers as the target's engine runs it here.

    Attributes:
        label: ``all int8``, ``3 layers in float``, or the precision that nothing is rounded in.
        int8_share: of the multiply-adds.
        drop: 1 - mean token cosine of the worst output on held-out clips.
        p1: 1st-percentile token cosine of the worst output.
        timing: of single calls, in turns with the others.
        is_chosen: whether it is what was written.
    """

    label: str
    int8_share: float
    drop: float
    p1: float
    timing: Timing
    is_chosen: bool = False


class Trades(msgspec.Struct, frozen=True, kw_only=True):
    """All trades of one graph, in fp32 first."""

    graph: str
    trades: list[Trade]

    @property
    def front(self) -> list[Trade]:
        """Those that no other beats in both accuracy and median time, the fastest first."""
        best, found = np.inf, []
        for one in sorted(self.trades, key=lambda one: (one.timing.median_ms, one.drop)):
            if one.drop < best:
                found.append(one)
                best = one.drop
        return found


def trades_of(
    job: Job, found: Sensitivity, target: Target, cache: Cache, tell: Told
) -> Trades | None:
    """Makes fp32, the recipe's floats and the best choices of layers, and times them in turns.

    None where the target's engine is not on this machine: TensorRT times on the board.
    """
    if target.engine == "tensorrt":
        return None
    floats = msgspec.structs.replace(job.recipe, weights="float", activations="float")
    exact = msgspec.structs.replace(floats, floats="f32", islands=())
    choices: list[tuple[str, Recipe, Point | None]] = [("fp32", exact, None)]
    if floats.floats != "f32":
        choices.append((floats.floats, floats, None))
    for point in _spread(found):
        count = len(point.float_layers)
        label = f"{count} layers in float" if count else "all int8"
        chosen = msgspec.structs.replace(found, chosen=point)
        choices.append((label, recipe_from(chosen, job.recipe), point))
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        calls, exactness = {}, {}
        for label, recipe, _ in choices:
            tell(label)
            place = Path(folder) / label.replace(" ", "-")
            (place / job.folder).mkdir(parents=True)
            one = msgspec.structs.replace(job, recipe=recipe)
            file, judged = made(one, target, place, cache)
            exactness[label] = list(judged.parity.values())
            graph = Graph(path=file.name, inputs=job.inputs, outputs=job.outputs)
            engine = host_engine(target.engine, file, graph, hint_for(target.engine, recipe))
            calls[label] = partial(engine.run, job.samples[-1])
        tell("timing in turns")
        taken = interleaved(calls, ROUNDS)
    return Trades(
        graph=job.name,
        trades=[
            Trade(
                label=label,
                int8_share=point.int8_share if point else 0.0,
                drop=max(1 - one.cosine_mean for one in exactness[label]),
                p1=min(one.cosine_p1 for one in exactness[label]),
                timing=timing_from(taken[label]),
                is_chosen=point == found.chosen,
            )
            for label, _, point in choices
        ],
    )


def _spread(found: Sensitivity) -> list[Point]:
    """At most `MOST` of the best trades, from all int8 to none, the chosen one among them."""
    front = found.front
    at = np.linspace(0, len(front) - 1, min(MOST, len(front))).round()
    picked = [front[int(place)] for place in at]
    if found.chosen not in picked:
        picked.append(found.chosen)
    return sorted(picked, key=lambda point: -point.int8_share)
