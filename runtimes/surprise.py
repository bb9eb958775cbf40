"""How surprising a surprise is: a score that means the same for every model and place."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

RECENT = 300
"""Steps that count as usual: a minute at five steps a second."""
LEAST = 30


class Calibration:
    """The share of recent steps that surprised at least as much; small is unusual.

    A conformal p-value (Vovk et al. 2005): while the world stays what it was, a score of at most p
    comes with chance p, whatever the distances are. A controller acts on ``p < 0.02``, say.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._sorted: list[float] = []

    def score(self, surprise: float) -> float | None:
        """The p-value of `surprise` among those before it; None until there are `LEAST`."""
        known = len(self._sorted)
        above = known - bisect_left(self._sorted, surprise)
        if known == RECENT:
            self._sorted.pop(bisect_left(self._sorted, self._recent[0]))
        self._recent.append(surprise)
        insort(self._sorted, surprise)
        return round((above + 1) / (known + 1), 4) if known >= LEAST else None
