"""Writes the tables of docs/closed-loop.md from the committed results; `--check` only looks."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from make_tables import lines_from, replaced, rewritten

from jepa_edge.bench.closed_loop import COLUMNS, ClosedLoop, PilotFacts
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
    head = f"**{found.world}, {found.level}** ({found.steps} steps at most{known}; {machine})"
    return f"{head}\n\n{lines_from(COLUMNS, map(PilotFacts.cells, found.pilots))}\n"


if __name__ == "__main__":
    sys.exit(rewritten(PAGE, lambda old: replaced(old, markdown())))
