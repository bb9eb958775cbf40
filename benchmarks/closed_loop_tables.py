"""Writes the tables of docs/closed-loop.md from the committed results; `--check` only looks."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from make_tables import lines_from, replaced, rewritten

from jepa_edge.bench.closed_loop import ClosedLoop
from jepa_edge.bench.flights import COLUMNS, PilotFacts
from jepa_edge.bench.report import where

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "closed_loop"
PAGE = HERE.parent / "docs" / "closed-loop.md"


def markdown() -> str:
    """A table for each body and level."""
    return "\n".join(map(_table, sorted(RESULTS.glob("*.json"))))


def _table(file: Path) -> str:
    found = msgspec.json.decode(file.read_bytes(), type=ClosedLoop)
    known = f"; {found.left_out} scenes left out" if found.left_out else ""
    machine = where(found.machine, "on this machine")
    plan, deadline = found.planner, found.planner.deadline_ms
    budget = f"rollout calls a plan: {plan.iterations}"
    budget += f", or {deadline:.0f} ms" if deadline else ", however long they take"
    said = f"{found.steps} steps at most; {budget}{known}; {machine}"
    head = f"**{found.world}, {found.level}: `{found.bundle}`** ({said})"
    return f"{head}\n\n{lines_from(COLUMNS, map(PilotFacts.cells, found.pilots))}\n"


def speed() -> str:
    """One planning iteration, ours and LeWM's."""
    found = msgspec.json.decode((HERE / "results" / "planning" / "speed.json").read_bytes())
    took = {entry["name"]: entry for entry in found["iterations"]}
    reference = min(entry["median_ms"] for name, entry in took.items() if "LeWM" in name)
    rows = [
        (
            name,
            f"{entry['median_ms']:.1f}",
            f"{entry['iqr_ms']:.1f}",
            f"{reference / entry['median_ms']:.1f}",
        )
        for name, entry in took.items()
    ]
    machine = found["machine"]
    note = (
        f"{found['candidates']} candidates, {found['horizon']} steps ahead, {found['rounds']} "
        f"rounds in turns; LeWM {found['lewm_parameters'] / 1e6:.1f} M, same size "
        f"{found['same_size_parameters'] / 1e6:.1f} M; {machine['cpu']}, {found['threads']} threads"
    )
    head = ("contender", "median ms", "quartiles apart", "times LeWM's speed")
    return f"({note})\n\n{lines_from(head, rows)}\n"


def written(text: str) -> str:
    """`text` with both between their markers."""
    return replaced(replaced(text, markdown()), speed(), "planning")


if __name__ == "__main__":
    sys.exit(rewritten(PAGE, written))
