"""One direction of a link as a model: when does a packet that is sent now arrive, if it does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from jepa_edge.bench.network.profiles import Direction
from jepa_edge.contract import InputError

PACKET = 1448
"""Bytes of data in a TCP segment on Ethernet (MTU 1500, timestamps on)."""
LEAST_RTO_S = 0.2
"""Linux's least retransmission timeout."""


class OneWay(Protocol):
    """Something that carries packets one way."""

    def arrival(self, now_s: float, size: int) -> float | None:
        """When a packet of `size` bytes sent at `now_s` arrives; None if it is lost.

        `now_s` never goes back.
        """

    def resend(self, at_s: float) -> float | None:
        """When a lost packet arrives that will be sent again at `at_s`, which may lie ahead.

        It takes no place in the queue, so that what is sent until then fares as it would.
        """


class SimulatedWay:
    """A `Direction`, with a seed: the same packets at the same times fare the same."""

    def __init__(self, direction: Direction, seed: int) -> None:
        self.direction = direction
        self._random = np.random.default_rng(seed)
        self._free_s = self._last_s = 0.0
        self._bad = False
        self._handover_s = self._next_handover(0.0)
        self._extra_ms = 0.0

    def arrival(self, now_s: float, size: int) -> float | None:
        """See `OneWay.arrival`."""
        spec = self.direction
        self._pass_handovers(now_s)
        if self._is_out(now_s) or self._is_lost():
            return None
        starts = max(now_s + self._standing_s(now_s), self._free_s)
        if (starts - now_s) * 1e3 > spec.queue_ms:
            return None
        self._free_s = starts + size * 8 / (spec.rate_mbit * 1e6)
        self._last_s = max(self._free_s + self._delay_s(now_s), self._last_s)
        return self._last_s

    def resend(self, at_s: float) -> float | None:
        """See `OneWay.resend`."""
        if self._is_out(at_s) or self._is_lost():
            return None
        return at_s + self._standing_s(at_s) + self._delay_s(at_s)

    def _delay_s(self, now_s: float) -> float:
        jitter_ms = self.direction.jitter_ms
        drawn = float(self._random.exponential(jitter_ms)) if jitter_ms else 0.0
        return (self.direction.delay_ms + self._extra(now_s) + drawn) / 1e3

    def _pass_handovers(self, now_s: float) -> None:
        handover = self.direction.handover
        if handover and now_s >= self._handover_s + handover.gap_s + handover.lasts_s:
            self._handover_s = self._next_handover(now_s)

    def _is_out(self, now_s: float) -> bool:
        outage, handover = self.direction.outage, self.direction.handover
        if outage and now_s % outage.every_s >= outage.every_s - outage.lasts_s:
            return True
        return bool(handover and 0 <= now_s - self._handover_s < handover.gap_s)

    def _next_handover(self, now_s: float) -> float:
        handover = self.direction.handover
        if handover is None:
            return math.inf
        low = min(100.0, handover.extra_ms / 2)
        self._extra_ms = float(self._random.uniform(low, handover.extra_ms))
        return now_s + float(self._random.exponential(handover.every_s))

    def _extra(self, now_s: float) -> float:
        handover = self.direction.handover
        return self._extra_ms if handover and now_s >= self._handover_s + handover.gap_s else 0.0

    def _is_lost(self) -> bool:
        bursts = self.direction.bursts
        if bursts is None:
            return False
        turn = bursts.turns_good if self._bad else bursts.turns_bad
        if self._random.random() < turn:
            self._bad = not self._bad
        return self._bad and self._random.random() < bursts.lost_when_bad

    def _standing_s(self, now_s: float) -> float:
        spec = self.direction
        return spec.standing_ms / 1e3 * (now_s % spec.swing_s) / spec.swing_s


class TraceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one packet: `delay_ms` is None for a lost one."""

    at_s: float
    size: int
    delay_ms: float | None


class RecordedWay:
    """Carries as another way does, and writes down what became of each packet."""

    def __init__(self, way: OneWay) -> None:
        self.way = way
        self.trace: list[TraceEntry] = []

    def arrival(self, now_s: float, size: int) -> float | None:
        """See `OneWay.arrival`."""
        at = self.way.arrival(now_s, size)
        delay_ms = None if at is None else round(float(at - now_s) * 1e3, 3)
        self.trace.append(TraceEntry(at_s=round(float(now_s), 6), size=size, delay_ms=delay_ms))
        return at

    def resend(self, at_s: float) -> float | None:
        """See `OneWay.resend`."""
        return self.way.resend(at_s)


class ReplayedWay:
    """Carries as a recorded link did: each packet fares as the last one before its time did.

    The trace begins again when it ends.
    """

    def __init__(self, trace: list[TraceEntry]) -> None:
        if not trace:
            raise InputError("the trace is empty; record one on a link that carries something")
        self._times = np.array([entry.at_s for entry in trace]) - trace[0].at_s
        self._delays = [entry.delay_ms for entry in trace]
        self._last_s = 0.0

    def arrival(self, now_s: float, size: int) -> float | None:  # noqa: ARG002  (a way)
        """See `OneWay.arrival`."""
        at = self.resend(now_s)
        if at is not None:
            self._last_s = at = max(at, self._last_s)
        return at

    def resend(self, at_s: float) -> float | None:
        """See `OneWay.resend`."""
        whole = float(self._times[-1]) or 1.0
        place = int(np.searchsorted(self._times, at_s % whole, side="right")) - 1
        delay_ms = self._delays[max(0, place)]
        return None if delay_ms is None else at_s + delay_ms / 1e3


def write_trace(path: Path, trace: list[TraceEntry]) -> None:
    """One JSON object a line, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in trace))
    part.replace(path)


def read_trace(path: Path) -> list[TraceEntry]:
    """What `write_trace` wrote. Raises `InputError` for anything else."""
    try:
        return [msgspec.json.decode(x, type=TraceEntry) for x in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"{path} is no network trace: {error}") from error


class Pipe:
    """A reliable, ordered byte stream over a way, as TCP makes one: what is lost comes later.

    A lost packet is sent again after a retransmission timeout that doubles each time (RFC 6298),
    and what was sent after it waits for it.
    """

    def __init__(self, way: OneWay, round_trip_s: float) -> None:
        self.way = way
        self._rto_s = max(LEAST_RTO_S, 2 * round_trip_s)
        self._last_s = 0.0
        self.packets = self.lost = 0

    def arrival(self, now_s: float, size: int) -> float:
        """When the last of `size` bytes that are written at `now_s` can be read."""
        for start in range(0, max(size, 1), PACKET):
            part = min(PACKET, max(size - start, 1)) + 52
            self._last_s = max(self._last_s, self._packet(now_s, part))
        return self._last_s

    def _packet(self, now_s: float, size: int) -> float:
        self.packets += 1
        at, rto = self.way.arrival(now_s, size), self._rto_s
        while at is None:
            self.packets, self.lost = self.packets + 1, self.lost + 1
            now_s, rto = now_s + rto, min(2 * rto, 60.0)
            at = self.way.resend(now_s)
        return at
