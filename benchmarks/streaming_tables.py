"""Writes the tables of docs/streaming.md from the committed results; `--check` only looks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_tables import lines_from, replaced, rewritten

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "streaming"
PAGE = HERE.parent / "docs" / "streaming.md"


def step(found: dict[str, Any]) -> list[list[str]]:
    """A step beside the window encoded again."""
    rows = [["engine", "precision", "computes in", "window ms", "step ms", "window / step"]]
    for row in found["rows"]:
        timings = (f"{row[name]['median_ms']:.0f}" for name in ("clip", "step"))
        names = row["engine"], row["precision"], row["precision_used"]
        rows.append([*names, *timings, f"{row['ratio']:.2f}"])
    return rows


def gate(found: dict[str, Any]) -> list[list[str]]:
    """What the change gate saves and costs."""
    rows = [
        [
            "world",
            "threshold",
            "steps left out",
            "of those in which it acted",
            "processor time",
            "relative L2",
            "worst cosine",
        ]
    ]
    for row in found["rows"]:
        shares = (f"{row[name]:.0%}" for name in ("skipped", "skipped_acting", "cpu_share"))
        errors = f"{row['relative_l2']:.3f}", f"{row['worst_cosine']:.3f}"
        rows.append([row["world"], f"{row['threshold']:g}", *shares, *errors])
    return rows


def endurance(found: dict[str, Any]) -> list[list[str]]:
    """An hour of stream."""
    head = ["precision", "flight log", "steps", "in s", "MiB early", "MiB at the end"]
    rows = [[*head, "MiB gained each hour"]]
    for row in found["rows"]:
        memory = f"{row['early_mib']:.1f}", f"{row['late_mib']:.1f}"
        gained = f"{row['growth_mib_per_hour']:+.2f}"
        log = "yes" if row["logged"] else "no"
        took = f"{row['seconds']:.0f}"
        rows.append([row["precision"], log, str(row["steps"]), took, *memory, gained])
    return rows


TABLES = {
    "step": (step, "vit-s-224-w8.json"),
    "gate": (gate, "change-gate.json"),
    "endurance": (endurance, "endurance.json"),
}


def written(text: str) -> str:
    """`text` with each table between its markers."""
    for name, (table, file) in TABLES.items():
        found = json.loads((RESULTS / file).read_bytes())
        head, *rows = table(found)
        machine = found["machine"]
        note = f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_1min']:.1f}"
        text = replaced(text, f"({note})\n\n{lines_from(head, rows)}\n", name)
    return text


if __name__ == "__main__":
    sys.exit(rewritten(PAGE, written))
