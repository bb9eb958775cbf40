"""What a run tells of itself: the time of every stage, deadlines, and what Prometheus may read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.contract import MissingExtraError, WrongUseError
from jepa_edge.runtimes.board import UNKNOWN, BoardState
from jepa_edge.runtimes.loop import Tick

STAGES = ("capture", "encode", "predict", "plan", "sink", "age")
"""From the last moment of a step to the loop; the engine's graphs; the search; handing over; and
from the last moment of a step until its action was handed over, the whole way."""
PER_OCTAVE = 16
LEAST_MS = 1e-3
BINS = 32 * PER_OCTAVE
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class StageTime(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, over the whole run; percentiles within 5 % of the true ones."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    over_deadline: int


class Histogram:
    """Times in bins that grow by 2^(1/16): a run of weeks takes no more memory than a second."""

    def __init__(self, deadline_ms: float) -> None:
        self.deadline_ms = deadline_ms
        self.count = self.over = 0
        self.max_ms = 0.0
        self._bins = [0] * BINS

    def add(self, ms: float) -> None:
        """Counts one time."""
        place = round(PER_OCTAVE * math.log2(max(ms, LEAST_MS) / LEAST_MS))
        self._bins[min(place, BINS - 1)] += 1
        self.count += 1
        self.over += ms > self.deadline_ms
        self.max_ms = max(self.max_ms, ms)

    def percentile(self, percent: float) -> float:
        """The middle of the bin that holds it; 0 when nothing was counted."""
        wanted, seen = self.count * percent / 100, 0
        for place, count in enumerate(self._bins):
            seen += count
            if count and seen >= wanted:
                return min(float(LEAST_MS * 2.0 ** (place / PER_OCTAVE)), self.max_ms)
        return 0.0

    def summary(self) -> StageTime:
        """What it came to so far."""
        return StageTime(
            count=self.count,
            p50_ms=round(self.percentile(50), 3),
            p99_ms=round(self.percentile(99), 3),
            max_ms=round(self.max_ms, 3),
            over_deadline=self.over,
        )


class Deadlines:
    """The time of every stage, against the time of a step (the age: against its own limit)."""

    def __init__(self, step_ms: float, age_limit_ms: float) -> None:
        limits = dict.fromkeys(STAGES, step_ms) | {"age": age_limit_ms}
        self.stages = {name: Histogram(limit) for name, limit in limits.items()}

    def add(self, tick: Tick, sink_ms: float) -> None:
        """Counts one tick that was handed over in `sink_ms`."""
        for name, ms in stage_times(tick, sink_ms).items():
            self.stages[name].add(ms)

    def summary(self) -> dict[str, StageTime]:
        """By stage, those that happened."""
        return {name: found.summary() for name, found in self.stages.items() if found.count}


def stage_times(tick: Tick, sink_ms: float) -> dict[str, float]:
    """Milliseconds of every stage that `tick` went through; a hold has only been handed over."""
    if tick.state == "hold":
        return {"sink": sink_ms}
    found = {
        "capture": tick.age_ms - tick.latency_ms,
        "encode": tick.encode_ms,
        "predict": tick.predict_ms,
        "plan": tick.plan_ms,
        "sink": sink_ms,
        "age": tick.age_ms + sink_ms,
    }
    return {name: max(0.0, ms) for name, ms in found.items() if ms is not None}


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return None
    return int(fields[1]) * 4096


class Metrics:
    """``/metrics`` for Prometheus on `address` (HOST:PORT, or a port of the loopback).

    Raises `WrongUseError` for an address that cannot be listened on.
    """

    def __init__(self, address: str) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise MissingExtraError("prometheus-client", "log") from error
        host, _, port = address.rpartition(":")
        registry = prometheus.CollectorRegistry()
        self._ticks = prometheus.Counter(
            "jepa_edge_ticks", "Steps by what the controller got", ["state"], registry=registry
        )
        self._dropped = prometheus.Counter(
            "jepa_edge_dropped_steps", "Steps nobody had time for", registry=registry
        )
        self._seconds = prometheus.Histogram(
            "jepa_edge_stage_seconds",
            "Time of each stage of a step",
            ["stage"],
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._surprise = prometheus.Gauge(
            "jepa_edge_surprise", "Of the newest step", registry=registry
        )
        self._celsius = prometheus.Gauge(
            "jepa_edge_temperature_celsius",
            "The hottest zone of the board; NaN: it does not tell",
            registry=registry,
        )
        self._watts = prometheus.Gauge(
            "jepa_edge_power_watts", "What the board draws; NaN: unknown", registry=registry
        )
        self._throttled = prometheus.Gauge(
            "jepa_edge_throttled", "1: the board is slowed down; NaN: unknown", registry=registry
        )
        self._show(UNKNOWN)
        self._memory = prometheus.Gauge(
            "jepa_edge_resident_bytes", "Memory of the process", registry=registry
        )
        self._memory.set_function(lambda: resident_bytes() or 0)
        try:
            serving: Any = prometheus.start_http_server(
                int(port), addr=host or "127.0.0.1", registry=registry
            )
        except (ValueError, OSError) as error:
            raise WrongUseError(f"--metrics {address}: cannot listen there: {error}") from error
        self._server = serving[0]
        self.port: int = self._server.server_port

    def add(self, tick: Tick, sink_ms: float) -> None:
        """Counts one tick."""
        self._ticks.labels(state=tick.state).inc()
        self._dropped.inc(tick.dropped)
        for name, ms in stage_times(tick, sink_ms).items():
            self._seconds.labels(stage=name).observe(ms / 1e3)
        if tick.surprise is not None:
            self._surprise.set(tick.surprise)
        self._show(tick.board or UNKNOWN)

    def _show(self, board: BoardState) -> None:
        shown = (
            (self._celsius, board.temperature_c),
            (self._watts, board.power_w),
            (self._throttled, board.throttled),
        )
        for gauge, value in shown:
            gauge.set(math.nan if value is None else value)

    def close(self) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
