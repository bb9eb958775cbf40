"""Writes the tables of docs/closed-loop.md from the committed results; `--check` only looks."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from make_tables import lines_from, replaced, rewritten

from jepa_edge.bench.closed_loop import ClosedLoop, PilotFacts
from jepa_edge.bench.report import where

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "closed_loop"
PAGE = HERE.parent / "docs" / "closed-loop.md"
HEAD = ["pilot", "success", "95 %", "steps", "metres", "collisions", "plan ms p50 / p99", "in time"]


def markdown() -> str:
    """A table for each body and level."""
    return "\n".join(map(_table, sorted(RESULTS.glob("*.json"))))


def _table(file: Path) -> str:
    found = msgspec.json.decode(file.read_bytes(), type=ClosedLoop)
    known = f"; {found.left_out} scenes left out" if found.left_out else ""
    machine = where(found.machine, "on this machine")
    head = f"**{found.world}, {found.level}** ({found.steps} steps at most{known}; {machine})"
    return f"{head}\n\n{lines_from(HEAD, map(_row, found.pilots))}\n"


def _row(pilot: PilotFacts) -> list[str]:
    won, timed = pilot.success, pilot.plan_ms_p50 is not None
    return [
        pilot.pilot,
        f"{won.share:.0%} of {pilot.episodes}",
        f"{won.low:.0%} to {won.high:.0%}",
        _number(pilot.steps_median),
        _number(pilot.path_m_median),
        f"{pilot.collisions_mean:.2f}",
        f"{pilot.plan_ms_p50:.1f} / {pilot.plan_ms_p99:.1f}" if timed else "",
        "" if pilot.in_time is None else f"{pilot.in_time:.2%}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(rewritten(PAGE, lambda old: replaced(old, markdown())))
