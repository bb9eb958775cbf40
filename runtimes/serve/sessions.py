"""Sessions: what the server remembers of each robot, and what it does when steps are missing."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

import msgspec
import numpy as np

from jepa_edge.contract import CheckFailedError, FloatArray, Tensors
from jepa_edge.runtimes.planner import Planner
from jepa_edge.runtimes.serve.batching import OverloadedError
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream


class SessionError(CheckFailedError):
    """The session cannot take this request as it is; the message says what can be sent."""


class SessionConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How many robots are remembered, and for how long after their last request."""

    most: int = 256
    idle_s: float = 120.0


class Session:
    """The stream of one robot. Its lock lets one request in at a time.

    Steps are numbered by the robot. A step that comes twice (a hedged request) is answered from
    memory; one that is missing is a hole, and a window with a hole is no clip: it starts anew.
    """

    def __init__(self, stream: Stream, planner: Planner | None) -> None:
        self.stream = copy.copy(stream)  # the same engines, a state of its own
        self.stream.reset()
        self.planner = copy.copy(planner)
        if self.planner is not None:
            self.planner.reset()
        self.lock = threading.Lock()
        self.used_s = time.monotonic()
        self.last: int | None = None
        self.seen = 0
        self._pooled: deque[FloatArray] = deque(maxlen=planner.history if planner else 1)
        self._answer: tuple[str, Tensors] = ("", {})

    def restart(self) -> None:
        """Forgets everything: the next step is the first."""
        self.stream.reset()
        if self.planner is not None:
            self.planner.reset()
        self._pooled.clear()
        self.last, self.seen, self._answer = None, 0, ("", {})

    def take(
        self, model: str, steps: list[StepData], then: Callable[[Session, FloatArray], Tensors]
    ) -> Tensors:
        """Advances over the `steps` that are new, and gives what `then` makes of the last latent.

        Raises `SessionError` when every step is older than what the session has seen.
        """
        newest = steps[-1].index
        if self.last is not None and newest <= self.last:
            if newest == self.last and self._answer[0] == model:
                return self._answer[1]
            raise SessionError(
                f"step {newest} is not newer than step {self.last}; send newer steps, or "
                "sequence_start to begin anew"
            )
        if self.last is not None and steps[0].index > self.last + 1:
            self.restart()
        pooled: FloatArray | None = None
        for step in steps:
            if self.last is None or step.index > self.last:
                pooled = self._advance(step)
        outputs = {} if pooled is None else then(self, pooled)
        outputs["step"] = np.array([newest], np.int64)
        outputs["seen"] = np.array([self.seen], np.int64)
        self._answer = (model, outputs)
        return outputs

    @property
    def history(self) -> FloatArray:
        """The last pooled latents `[Hh, P]`, the first repeated while there are fewer."""
        known = list(self._pooled)
        lacking = (self._pooled.maxlen or 1) - len(known)
        return np.stack([known[0]] * lacking + known)

    def _advance(self, step: StepData) -> FloatArray | None:
        try:
            encoded = self.stream.encode(step)
        except Exception:
            self.restart()  # what the stream remembers may be half of this step
            raise
        self.last, self.seen = step.index, self.seen + 1
        if encoded is None:
            return None
        self._pooled.append(encoded[1])
        return encoded[1]


class Sessions:
    """Every robot's session by its id; the longest unused one leaves when there are too many."""

    def __init__(self, make: Callable[[], Session], config: SessionConfig) -> None:
        self._make, self._config = make, config
        self._lock = threading.Lock()
        self._by_id: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, name: str, *, start: bool) -> Session:
        """The session `name`, made anew when `start`.

        Raises:
            SessionError: it is not known here (never begun, idle too long, or the server is new).
            OverloadedError: all places are taken by robots that are not idle.
        """
        now = time.monotonic()
        with self._lock:
            self._forget_idle(now)
            session = self._by_id.get(name)
            if session is None and not start:
                raise SessionError(
                    f"session {name!r} is not known here; send sequence_start with a whole window"
                )
            if session is None:
                if len(self._by_id) >= self._config.most:
                    raise OverloadedError(f"{self._config.most} robots are served already")
                session = self._by_id[name] = self._make()
            session.used_s = now
            self._by_id.move_to_end(name)
            return session

    def end(self, name: str) -> None:
        """Forgets a session; nothing happens if it is not there."""
        with self._lock:
            self._by_id.pop(name, None)

    def _forget_idle(self, now: float) -> None:
        while self._by_id:
            name, oldest = next(iter(self._by_id.items()))
            if now - oldest.used_s <= self._config.idle_s:
                return
            del self._by_id[name]
