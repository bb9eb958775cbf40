"""Speed: variants measured in turns, so that a busy moment of the machine hits them all alike."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from jepa_edge.bench.facts import Timing
from jepa_edge.bench.variants import Chain, Variant
from jepa_edge.contract import FloatArray
from jepa_edge.media.clips import Clip

WARM_UP = 3


def timing_from(samples_ms: FloatArray) -> Timing:
    """Order statistics (linear interpolation, as numpy's default) of single calls `[n]` in ms."""
    p25, median, p75, p90, p99 = np.percentile(samples_ms, (25, 50, 75, 90, 99))
    return Timing(
        count=len(samples_ms),
        min_ms=float(np.min(samples_ms)),
        p25_ms=float(p25),
        median_ms=float(median),
        p75_ms=float(p75),
        p90_ms=float(p90),
        p99_ms=float(p99),
    )


def turns(count: int, rounds: int) -> Iterator[int]:
    """Whose turn it is: each round has everyone once, and each round another one begins."""
    for k in range(rounds):
        yield from ((k + i) % count for i in range(count))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, FloatArray]:
    """Milliseconds `[rounds]` of each call, after `WARM_UP` calls of each that are not counted."""
    names = list(calls)
    for index in turns(len(names), WARM_UP):
        calls[names[index]]()
    taken: dict[str, list[float]] = {name: [] for name in names}
    for index in turns(len(names), rounds):
        start = clock_ns()
        calls[names[index]]()
        taken[names[index]].append((clock_ns() - start) / 1e6)
    return {name: np.array(values, np.float32) for name, values in taken.items()}


def speed(chains: list[Chain], clip: Clip, rounds: int) -> dict[str, dict[str, Timing]]:
    """Timing by label and graph; a graph is timed across all variants before the next graph."""
    result: dict[str, dict[str, Timing]] = {chain.variant.label: {} for chain in chains}
    graphs = {name: None for chain in chains for name in chain.engines}
    for graph in graphs:
        having = [chain for chain in chains if graph in chain.engines]
        calls = {chain.variant.label: _call(chain, graph, clip) for chain in having}
        for label, samples in interleaved(calls, rounds).items():
            result[label][graph] = timing_from(samples)
    return result


def peak_rss_mib(variant: Variant, threads: int) -> float | None:
    """Peak memory of a fresh process that opens all graphs of `variant` and runs each once.

    None when that process fails, which the caller notes.
    """
    folder = Path(variant.bundle.folder).resolve()
    arguments = [str(folder), variant.precision, str(threads)]
    run = subprocess.run(
        [sys.executable, "-m", "jepa_edge.bench.memory", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    return float(run.stdout) if run.returncode == 0 else None


def _call(chain: Chain, graph: str, clip: Clip) -> Callable[[], object]:
    engine, inputs = chain.engines[graph], chain.example(graph, clip)
    return lambda: engine.run(inputs)
