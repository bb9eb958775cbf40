"""The committed closed-loop results as Markdown: `python benchmarks/closed_loop_table.py`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jepa_edge.bench.closed_loop import ClosedLoop, PilotFacts

RESULTS = Path(__file__).parent / "results" / "closed_loop"
COLUMNS = (
    "pilot",
    "success",
    "95 %",
    "steps",
    "metres",
    "collisions",
    "plan ms p50 / p99",
    "in time",
)
HEAD = "| " + " | ".join(COLUMNS) + " |"


def main() -> None:
    """Prints a table for each body and level."""
    for file in sorted(RESULTS.glob("*.json")):
        found = msgspec.json.decode(file.read_bytes(), type=ClosedLoop)
        print(f"\n**{found.world}, {found.level}** ({found.steps} steps at most)\n\n{HEAD}")  # noqa: T201
        print("| --- |" + " ---: |" * 7)  # noqa: T201
        for pilot in found.pilots:
            print(_row(pilot))  # noqa: T201


def _row(pilot: PilotFacts) -> str:
    won = pilot.success
    cells = [
        pilot.pilot,
        f"{won.share:.0%} of {pilot.episodes}",
        f"{won.low:.0%} to {won.high:.0%}",
        _number(pilot.steps_median),
        _number(pilot.path_m_median),
        f"{pilot.collisions_mean:.2f}",
        "" if pilot.plan_ms_p50 is None else f"{pilot.plan_ms_p50:.1f} / {pilot.plan_ms_p99:.1f}",
        "" if pilot.in_time is None else f"{pilot.in_time:.2%}",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    main()
