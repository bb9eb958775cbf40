"""Edge and cloud together: the cloud while it answers in time, the board from the very same step.

The states and the reasons for them: a circuit breaker (Nygard, "Release It!", 2007) with
hysteresis, so that a link that comes and goes does not make the robot change its mind at each step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Plan
from jepa_edge.runtimes.remote.link import Call
from jepa_edge.runtimes.remote.stream import RemoteStream
from jepa_edge.runtimes.remote.wire import LateError, LinkError
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

Path = Literal["edge", "cloud"]
RENEW_AFTER = 5
"""Misses in a row after which TCP's own waiting is not waited for."""


class BreakerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When to leave the cloud, and when to go back.

    Attributes:
        misses: so many late answers among the last `of` open the breaker.
        of: answers that are looked at.
        good: so many answers in time, one after another, close it again.
        least_s: it stays open at least so long; doubled each time that it opens again within
            `settled_s`, up to `most_s`.
        most_s: see `least_s`.
        settled_s: closed for so long, the link counts as sound again.
    """

    misses: int = 2
    of: int = 5
    good: int = 3
    least_s: float = 0.5
    most_s: float = 10.0
    settled_s: float = 10.0


class Breaker:
    """Decides whose answer counts; knows nothing of links but late or in time."""

    def __init__(self, config: BreakerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        self.path: Path = "cloud"
        self.opened = 0
        self._recent: deque[bool] = deque(maxlen=config.of)
        self._good = 0
        self._since = clock()
        self._wait_s = config.least_s

    def record(self, *, in_time: bool) -> Path:
        """Takes note of one answer (or of its absence); the path for the next step."""
        now = self._clock()
        self._recent.append(in_time)
        self._good = self._good + 1 if in_time else 0
        if self.path == "cloud":
            if self._recent.count(False) >= self.config.misses:
                self._open(now)
        elif self._good >= self.config.good and now - self._since >= self._wait_s:
            self.path, self._since = "cloud", now
            self._recent.clear()
        return self.path

    def _open(self, now: float) -> None:
        flaps = self.opened and now - self._since < self.config.settled_s
        doubled = min(2 * self._wait_s, self.config.most_s)
        self._wait_s = doubled if flaps else self.config.least_s
        self.path, self._since, self._good = "edge", now, 0
        self.opened += 1
        self._recent.clear()


class HybridStream:
    """A small model on board that is always warm, and a server that is asked at each step.

    Both get every step. In the state ``cloud`` the server's answer counts if it is here in time,
    and the board's otherwise, in the same step. In the state ``edge`` nobody waits: answers in time
    only count towards going back. ``path`` is whose answer the last step got.
    """

    def __init__(
        self,
        edge: Stream,
        cloud: RemoteStream,
        breaker: Breaker,
        *,
        pilot: Pilot | None = None,
    ) -> None:
        self.edge, self.cloud, self.breaker, self.pilot = edge, cloud, breaker, pilot
        self.facts = edge.facts
        self.path: Path = "edge"
        self.fallbacks = 0
        self._probe: Call | None = None
        self._own: FloatArray | None = None
        self._misses = 0

    @property
    def is_warm(self) -> bool:
        """Whether who answered the last step has seen a whole window."""
        return self.cloud.is_warm if self.path == "cloud" else self.edge.is_warm

    def reset(self) -> None:
        """Both begin anew."""
        self.edge.reset()
        self.cloud.reset()
        self._probe = None

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """See `Stream.encode`. Never raises `LinkError`."""
        self._look_at_probe()
        waits = self.breaker.path == "cloud"
        call = self._begin(step)
        own = self.edge.encode(step)
        self._own = None if own is None else own[1]
        if self.pilot is not None and self._own is not None:
            self.pilot.remember(self._own)
        self.path = "edge"
        if not waits:
            self._probe = call
            return own
        got = self._take(call)
        if got is not None and (self.cloud.is_warm or not self.edge.is_warm):
            self.path = "cloud"
            return got
        self.fallbacks += 1
        return own

    def predict(self) -> FloatArray | None:
        """See `Stream.predict`; of whoever answered the last step."""
        return self.cloud.predict() if self.path == "cloud" else self.edge.predict()

    def act(self, pooled: FloatArray, *, ready: bool) -> Plan | None:
        """See `Pilot.act`; of whoever answered the last step."""
        del pooled
        if self.path == "cloud" and self.cloud.plan is not None:
            return self.cloud.plan if ready else None
        if self.pilot is None or self._own is None:
            return None
        return self.pilot.plan(ready=ready and self.edge.is_warm)

    def forget(self) -> None:
        """See `Pilot.forget`."""
        if self.pilot is not None:
            self.pilot.forget()

    def _begin(self, step: StepData) -> Call | None:
        try:
            return self.cloud.begin(step)
        except LinkError:
            self._missed()
            return None

    def _look_at_probe(self) -> None:
        """In the state ``edge``: what became of the call of the step before."""
        call, self._probe = self._probe, None
        if call is not None:
            self._take(call, wait=False)

    def _take(
        self, call: Call | None, *, wait: bool = True
    ) -> tuple[FloatArray, FloatArray] | None:
        """What the server says, and the breaker told whether it came in time."""
        if call is None:
            return None
        try:
            if not wait and not call.done:
                raise LateError("still on its way when the next step is here")
            got = self.cloud.take(call, again=wait)
        except LinkError:
            call.cancel()
            self._missed()
            return None
        self._misses = 0
        self.breaker.record(in_time=True)
        return got

    def _missed(self) -> None:
        """After a few misses in a row the connections are made anew."""
        self.breaker.record(in_time=False)
        self._misses += 1
        if self._misses % RENEW_AFTER == 0:
            self.cloud.link.renew()
