"""When a decision is there, and who took it: one robot's loop over a simulated link."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from jepa_edge.bench.network.link import Pipe, SimulatedWay
from jepa_edge.bench.network.profiles import profile
from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.hybrid import Breaker, BreakerConfig

STEP_S = 0.2
PARTS = 40
"""Of a step: how finely commands are laid out."""
FRAMING = 420
"""Bytes of HTTP/2, gRPC and the protocol's names around a request, measured."""
ANSWER = 900
"""Bytes of an answer: a latent, a plan, its names."""


class TimingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What takes how long.

    Attributes:
        edge_ms: one decision on board: encode, then plan.
        encode_ms: the first part of it, which a hybrid always does; at most `edge_ms`.
        cloud_ms: one decision on the server.
        deadline_ms: for an answer; what comes later is thrown away.
        budget_ms: no command is followed when what it is based on is older.
    """

    edge_ms: float = 25.0
    encode_ms: float = 5.0
    cloud_ms: float = 25.0
    deadline_ms: float = 150.0
    budget_ms: float = 400.0


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is handed over at `at_s`, from what was seen at `seen_s`; None: a hold."""

    at_s: float
    seen_s: float
    action: FloatArray | None


class Timing:
    """Over one path and one network: when the decision for a step is there, and from whom.

    The loop does one step after the other, as `jepa-edge run` does: a step that begins while it
    is busy is dropped.
    """

    def __init__(self, path: str, network: str, config: TimingConfig, seed: int) -> None:
        spec = profile(network)
        round_trip_s = (spec.up.delay_ms + spec.down.delay_ms) / 1e3
        self.path, self.config = path, config
        self._up = Pipe(SimulatedWay(spec.up, 2 * seed), round_trip_s)
        self._down = Pipe(SimulatedWay(spec.down, 2 * seed + 1), round_trip_s)
        self._now = self._start = float(np.random.default_rng((seed, 11)).uniform(0, 60))
        self._breaker = Breaker(BreakerConfig(), lambda: self._now)
        self._unconfirmed = 0
        self._probe_s: float | None = None
        self._free_s = 0.0
        self.bytes_up = self.bytes_down = 0

    def is_busy(self, now_s: float) -> bool:
        """Whether the loop still works on an earlier step, so that this one is dropped."""
        return now_s < self._free_s - 1e-9

    def forget(self) -> None:
        """After a dropped step nothing of what came before is sent again."""
        self._unconfirmed = 0

    def decide(
        self, now_s: float, step_bytes: int, window: int, *, plans: bool = True
    ) -> tuple[float, str]:
        """(seconds until the hand-over, who thought: ``edge``, ``cloud`` or ``hold``).

        Without `plans` the board has not seen enough to plan yet, and is done when it has encoded.
        """
        after_s, who = self._decided(now_s, step_bytes, window, plans=plans)
        self._free_s = now_s + after_s
        return after_s, who

    def _decided(
        self, now_s: float, step_bytes: int, window: int, *, plans: bool
    ) -> tuple[float, str]:
        config, self._now = self.config, self._start + now_s
        encode_s, deadline_s = config.encode_ms / 1e3, config.deadline_ms / 1e3
        plan_s = config.edge_ms / 1e3 - encode_s if plans else 0.0
        if self.path == "edge":
            return encode_s + plan_s, "edge"
        self._look_at_probe(deadline_s)
        waits = self._breaker.path == "cloud" or self.path == "cloud"
        took_s = self._took_s(step_bytes, window)
        in_time = took_s <= deadline_s
        if in_time:
            self._unconfirmed = 0
        if self.path == "cloud":
            return (took_s, "cloud") if in_time else (deadline_s, "hold")
        if not waits:
            self._probe_s = took_s
            return encode_s + plan_s, "edge"
        self._breaker.record(in_time=in_time)
        if in_time:
            return max(took_s, encode_s), "cloud"
        return max(deadline_s, encode_s) + plan_s, "edge"

    def _took_s(self, step_bytes: int, window: int) -> float:
        """A request with every unconfirmed step, and its answer."""
        self._unconfirmed = min(self._unconfirmed + 1, window)
        size = self._unconfirmed * step_bytes + FRAMING
        self.bytes_up, self.bytes_down = self.bytes_up + size, self.bytes_down + ANSWER
        sent = self._up.arrival(self._now, size)
        return self._down.arrival(sent + self.config.cloud_ms / 1e3, ANSWER) - self._now

    def _look_at_probe(self, deadline_s: float) -> None:
        if self._probe_s is not None:
            self._breaker.record(in_time=self._probe_s <= deadline_s)
            self._probe_s = None


def scheduled(
    commands: Sequence[Command], begins_s: float, budget_s: float, width: int
) -> tuple[FloatArray, float]:
    """What is commanded in each part of a step `[40, A]`, and the share of it that is a hold.

    Args:
        commands: in the order of their hand-over.
        begins_s: when the step begins.
        budget_s: no command is followed when what it is based on is older.
        width: A.
    """
    found = np.zeros((PARTS, width), np.float32)
    still = 0
    for part in range(PARTS):
        at_s = begins_s + part * STEP_S / PARTS
        last = next((c for c in reversed(commands) if c.at_s <= at_s), None)
        if last is None or last.action is None or at_s - last.seen_s > budget_s:
            still += 1
        else:
            found[part] = last.action
    return found, still / PARTS
