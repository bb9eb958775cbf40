"""What a run tells the machine it runs on: systemd's watchdog, and a health file.

Protocol: sd_notify(3), a datagram to ``$NOTIFY_SOCKET``. The watchdog is fed from the loop
itself and nowhere else, so that a hung loop is a dead service. The health file is what the device
agent judges a new release by (`jepa_edge.devices.agent.health`).
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.runtimes.loop import Tick

EVERY_NS = 500_000_000
RECENT = 100


class Autopilot(msgspec.Struct, frozen=True, kw_only=True):
    """What the link to the autopilot last said; None is unknown."""

    linked: bool
    armed: bool | None = None
    battery_pct: int | None = None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``health.json``; `updated_ns` is CLOCK_MONOTONIC."""

    pid: int
    updated_ns: int
    steps: int
    ok: int
    holds: int
    dropped: int
    state: str
    reason: str = ""
    latency_ms_p99: float | None = None
    age_ms_p99: float | None = None
    autopilot: Autopilot | None = None


class Service:
    """Reports to the service manager at most twice a second; does nothing where there is none."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._notify_at = environment.get("NOTIFY_SOCKET", "")
        folder = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._file = Path(folder) / "health.json" if folder else None
        self._latency_ms: deque[float] = deque(maxlen=RECENT)
        self._age_ms: deque[float] = deque(maxlen=RECENT)
        self._steps = self._ok = self._holds = self._dropped = 0
        self._told_ns = 0

    def ready(self) -> None:
        """The engine is loaded and the sources are open."""
        self._tell("READY=1\nSTATUS=waiting for the first step")

    def beat(self, tick: Tick, autopilot: Autopilot | None = None) -> None:
        """One step is done."""
        self._steps += 1
        self._ok += tick.state == "ok"
        self._holds += tick.state == "hold"
        self._dropped += tick.dropped
        if tick.state != "hold":
            self._latency_ms.append(tick.latency_ms)
            self._age_ms.append(tick.age_ms)
        now_ns = time.monotonic_ns()
        if now_ns - self._told_ns < EVERY_NS:
            return
        self._told_ns = now_ns
        self._tell(
            f"WATCHDOG=1\nSTATUS={tick.state} after {self._steps} steps, {self._holds} holds"
        )
        self._write(self._health(tick, now_ns, autopilot))

    def stopping(self) -> None:
        """The run has ended."""
        self._tell("STOPPING=1")

    def _health(self, tick: Tick, now_ns: int, autopilot: Autopilot | None) -> Health:
        return Health(
            pid=os.getpid(),
            updated_ns=now_ns,
            steps=self._steps,
            ok=self._ok,
            holds=self._holds,
            dropped=self._dropped,
            state=tick.state,
            reason=tick.reason,
            latency_ms_p99=_p99(self._latency_ms),
            age_ms_p99=_p99(self._age_ms),
            autopilot=autopilot,
        )

    def _tell(self, message: str) -> None:
        if not self._notify_at:
            return
        address = self._notify_at
        if address.startswith("@"):  # an abstract socket
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.connect(address)
            out.sendall(message.encode())

    def _write(self, health: Health) -> None:
        if self._file is None:
            return
        part = self._file.with_name(".health.json.part")
        part.write_bytes(msgspec.json.encode(health))
        part.replace(self._file)


def _p99(values: deque[float]) -> float | None:
    return round(float(np.percentile(values, 99)), 3) if values else None
