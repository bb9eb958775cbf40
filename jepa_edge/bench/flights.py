"""What flights in the same scenes tell of the pilots that flew them."""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.bench.decisions import Z_95, wilson
from jepa_edge.bench.facts import Interval

COLUMNS = (
    "pilot", "success", "95 %", "than the first", "steps", "metres", "collisions", "plan ms p50",
    "p99", "in time",
)  # fmt: skip


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One episode of one pilot; `plan_ms` are its plans' times in order, `path_m` its way."""

    pilot: str
    seed: int
    success: bool
    steps: int
    collisions: int
    path_m: float
    plan_ms: list[float]


class PilotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one pilot came to; times are None for pilots that do not plan."""

    pilot: str
    episodes: int
    success: Interval
    steps_median: float | None
    """Of the episodes that succeeded."""
    collisions_mean: float
    path_m_median: float | None
    """Of the episodes that succeeded."""
    plan_ms_p50: float | None
    plan_ms_p99: float | None
    in_time: float | None
    """Share of plans done within a tick."""
    than_first: Interval | None = None
    """By how much more often it arrived than the first pilot in the scenes that both flew."""

    def cells(self) -> list[str]:
        """A row under `COLUMNS`."""
        numbers = self.steps_median, self.path_m_median, self.plan_ms_p50, self.plan_ms_p99
        steps, metres, *plan_ms = ("" if n is None else f"{n:.1f}" for n in numbers)
        return [
            self.pilot,
            f"{self.success.share:.0%} of {self.episodes}",
            f"{self.success.low:.0%} to {self.success.high:.0%}",
            _points(self.than_first),
            steps,
            metres,
            f"{self.collisions_mean:.2f}",
            *plan_ms,
            "" if self.in_time is None else f"{self.in_time:.1%}",
        ]


def _points(difference: Interval | None) -> str:
    if difference is None:
        return ""
    numbers = difference.share, difference.low, difference.high
    share, low, high = (f"{100 * n:+.0f}" for n in numbers)
    return f"{share} ({low} to {high})"


def paired(first: list[bool], other: list[bool]) -> Interval:
    """By how much more often `other` succeeded in the same scenes, with its 95 % interval.

    Agresti and Min (2005): Wald's interval with half a scene more of each of the four outcomes.
    The scenes that both or neither won tell nothing of the difference, so that it is known far
    better than from two shares on their own.
    """
    gained = sum(o and not f for f, o in zip(first, other, strict=True))
    lost = sum(f and not o for f, o in zip(first, other, strict=True))
    count = len(first) + 2
    centre = (gained - lost) / count
    spread = ((gained + lost + 1) / count - centre**2) / count
    half = Z_95 * spread**0.5
    return Interval(
        share=round((gained - lost) / max(len(first), 1), 5),
        low=round(max(-1.0, centre - half), 5),
        high=round(min(1.0, centre + half), 5),
    )


def facts_of(pilot: str, first: str, flights: list[Flight], tick_ms: float) -> PilotFacts:
    """What `pilot` came to in `flights`, beside the pilot `first`."""
    ours = [flight for flight in flights if flight.pilot == pilot]
    theirs = {flight.seed: flight.success for flight in flights if flight.pilot == first}
    shared = [flight for flight in ours if flight.seed in theirs]
    won = [flight.steps for flight in ours if flight.success]
    paths = [flight.path_m for flight in ours if flight.success]
    plans = np.array([ms for flight in ours for ms in flight.plan_ms])
    return PilotFacts(
        pilot=pilot,
        episodes=len(ours),
        success=wilson(len(won), len(ours)),
        steps_median=float(np.median(won)) if won else None,
        collisions_mean=round(float(np.mean([flight.collisions for flight in ours])), 3),
        path_m_median=round(float(np.median(paths)), 2) if paths else None,
        plan_ms_p50=round(float(np.percentile(plans, 50)), 2) if plans.size else None,
        plan_ms_p99=round(float(np.percentile(plans, 99)), 2) if plans.size else None,
        in_time=round(float((plans <= tick_ms).mean()), 4) if plans.size else None,
        than_first=None
        if pilot == first
        else paired([theirs[f.seed] for f in shared], [f.success for f in shared]),
    )
