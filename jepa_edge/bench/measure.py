"""Latency, measured interleaved: each round runs every precision once, in turning order."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

WARM_UP = 3


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Of one whole step (encode and predict), over all rounds."""

    median_ms: float
    iqr_ms: float
    p90_ms: float
    p99_ms: float
    rounds: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a precision costs on this machine."""

    latency: Latency
    size_mb: float
    memory_mb: float | None
    precision_used: str


def costs_of(
    bundle: Bundle, steps: list[StepData], *, rounds: int, threads: int
) -> dict[str, Cost]:
    """The cost of every precision of `bundle` on real `steps`; all share the machine's noise."""
    names = list(bundle.manifest.precisions)
    streams, memory = {}, {}
    for name in names:
        before = _resident_mb()
        streams[name] = Stream(bundle, name, threads=threads)
        after = _resident_mb()
        memory[name] = None if before is None or after is None else round(after - before, 1)
    times: dict[str, list[float]] = {name: [] for name in names}
    window = bundle.manifest.model.window
    for round_ in range(rounds + window + WARM_UP):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter_ns()
            streams[name].encode(steps[round_ % len(steps)])
            streams[name].predict()
            if round_ >= window + WARM_UP:
                times[name].append((time.perf_counter_ns() - began) / 1e6)
    return {
        name: Cost(
            latency=_latency(times[name]),
            size_mb=round(_size_mb(bundle, name), 2),
            memory_mb=memory[name],
            precision_used=streams[name].engine.precision_used,
        )
        for name in names
    }


def _latency(times_ms: list[float]) -> Latency:
    low, median, high, p90, p99 = np.percentile(times_ms, (25, 50, 75, 90, 99))
    return Latency(
        median_ms=round(float(median), 3),
        iqr_ms=round(float(high - low), 3),
        p90_ms=round(float(p90), 3),
        p99_ms=round(float(p99), 3),
        rounds=len(times_ms),
    )


def _size_mb(bundle: Bundle, precision: str) -> float:
    """Bytes of all graph files of a precision, weights beside them included."""
    paths = [bundle.path(g.path) for g in bundle.manifest.precisions[precision].graphs.values()]
    files = {file for path in paths for file in path.parent.glob(path.stem + ".*")}
    return sum(file.stat().st_size for file in files) / 1e6


def _resident_mb() -> float | None:
    """This process's resident memory; None where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = next(row for row in status.read_text().splitlines() if row.startswith("VmRSS"))
    return int(line.split()[1]) / 1024
