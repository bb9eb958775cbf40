"""The pilot: remembers what was seen, and plans the next action towards a goal's latent."""

from __future__ import annotations

from collections import deque

import numpy as np

from jepa_edge.contract import CheckFailedError, FloatArray
from jepa_edge.runtimes.planner import Plan, Planner


class Pilot:
    """Plans at each step; it never repeats a plan, and says so when it has none."""

    def __init__(self, planner: Planner, goal: FloatArray) -> None:
        self.planner, self.goal = planner, goal
        self._history: deque[FloatArray] = deque(maxlen=planner.history)

    def act(self, pooled: FloatArray, *, ready: bool) -> Plan | None:
        """What to do after `pooled [P]`, the newest latent; None until `ready` and all is known.

        Raises `CheckFailedError` when the search finds nothing finite.
        """
        self.remember(pooled)
        return self.plan(ready=ready)

    def remember(self, pooled: FloatArray) -> None:
        """Takes `pooled [P]` as the newest latent, without planning."""
        self._history.append(pooled)

    def plan(self, *, ready: bool) -> Plan | None:
        """See `act`, for what is remembered."""
        if not ready or len(self._history) < self.planner.history:
            return None
        plan = self.planner.plan(np.stack(list(self._history)), self.goal)
        if not np.isfinite(plan.actions).all():
            raise CheckFailedError("the plan is not finite")
        return plan

    def forget(self) -> None:
        """Begins anew: after a hole, what was seen before it is no history."""
        self._history.clear()
        self.planner.reset()
