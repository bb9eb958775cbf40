"""The loop's pulse: by it another thread sees that a stage of a step hangs, while it does."""

from __future__ import annotations

import time
from collections import deque

from jepa_edge.contract import Tensors
from jepa_edge.runtimes.engine import Engine

HANGS_S, SLACK = 0.1, 1.5
"""A stage hangs when it takes longer than this, and than so many times what is usual."""
RECENT, LEARNT, OUTLIERS = 32, 4, 3


class Pulse:
    """Tells from outside how long the loop has been at one stage of a step: `Loop` marks it.

    The longest stage of each step is remembered, and a few outliers among those are not minded.
    Between steps it waits for its source, which tells of its own silence.
    """

    def __init__(self, least_s: float = HANGS_S) -> None:
        self.least_s = least_s
        self._since_ns: int | None = None
        self._longest_s = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)

    def mark(self) -> None:
        """A stage begins: the one before is over."""
        now_ns = time.monotonic_ns()
        if self._since_ns is not None:
            self._longest_s = max(self._longest_s, (now_ns - self._since_ns) / 1e9)
        self._since_ns = now_ns

    def rest(self) -> None:
        """The step is done."""
        self.mark()
        self._since_ns = None
        self._recent.append(self._longest_s)
        self._longest_s = 0.0

    @property
    def limit_s(self) -> float | None:
        """How long a stage may take; None until some steps have shown what is usual."""
        if len(self._recent) < LEARNT:
            return None
        usual_s = sorted(self._recent)[-1 - OUTLIERS]
        return max(self.least_s, SLACK * usual_s)

    def hung_s(self) -> float | None:
        """For how long a stage has not ended that should have; None if all is well."""
        since_ns, limit_s = self._since_ns, self.limit_s
        if since_ns is None or limit_s is None:
            return None
        lasted_s = (time.monotonic_ns() - since_ns) / 1e9
        return lasted_s if lasted_s > limit_s else None


class Watched:
    """An engine that is called many times in one stage (a planner's): each call is marked."""

    def __init__(self, engine: Engine, pulse: Pulse) -> None:
        self.engine, self.pulse = engine, pulse
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self.precision_used = engine.precision_used

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`."""
        self.pulse.mark()
        return self.engine.run(inputs)
