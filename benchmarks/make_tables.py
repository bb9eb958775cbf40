"""Writes the tables of the committed results; `--check` only looks whether they are the same.

Between README.md's markers those that most people come for, in docs/measured.md all of them.

jepa-edge bench --bundle dist/nano-x86-cpu.jepa --probe-data data/forest,data/reach --report out
cp out/bench.json benchmarks/results/nano-x86-cpu.json && make tables
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from jepa_edge.bench.facts import Report
from jepa_edge.bench.report import where
from jepa_edge.bench.tables import Grid, grids

ROOT = Path(__file__).resolve().parent.parent
SHORT = {"Precisions side by side", "Decisions"}
"""What README.md shows."""
NONE = "No measurement is committed yet; `make demo` measures on your machine.\n"


def markdown_from(report: Report, *, whole: bool) -> str:
    """A report's tables as Markdown; single-call latencies stay in the JSON."""
    shown = [g for g in grids(report) if (g.title != "Latency" if whole else g.title in SHORT)]
    return f"{where(report.machine, report.measured)}.\n\n" + "\n".join(map(_table, shown))


def tables(folder: Path, *, whole: bool = False) -> str:
    """The Markdown of every result in `folder`, by file name; says so when there is none."""
    parts = []
    for file in sorted(folder.glob("*.json")):
        report = msgspec.json.decode(file.read_bytes(), type=Report)
        parts.append(f"### {file.stem}\n\n{markdown_from(report, whole=whole)}")
    return "\n".join(parts) or NONE


def replaced(text: str, generated: str, marker: str = "measured") -> str:
    """`text` with `generated` between its markers. Raises `ValueError` if it has none."""
    pattern = rf"(<!-- {marker}: begin.*?-->\n).*?(<!-- {marker}: end -->)"
    found, count = re.subn(pattern, lambda m: f"{m[1]}\n{generated}\n{m[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the text needs one pair of markers: <!-- {marker}: begin --> and end")
    return found


def rewritten(page: Path, written: Callable[[str], str]) -> int:
    """Rewrites `page`; with `--check`, 1 when it is not what the results say."""
    old = page.read_text()
    new = written(old)
    if "--check" in sys.argv:
        return int(old != new)
    part = page.with_suffix(".part")
    part.write_text(new)
    part.replace(page)
    return 0


def lines_from(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, align, *rows])


def _table(grid: Grid) -> str:
    return f"**{grid.title}** ({grid.note})\n\n{lines_from(grid.head, grid.rows)}\n"


if __name__ == "__main__":
    pages = ((ROOT / "README.md", False), (ROOT / "docs" / "measured.md", True))
    results = ROOT / "benchmarks" / "results"
    sys.exit(
        max(
            rewritten(page, lambda old, whole=whole: replaced(old, tables(results, whole=whole)))
            for page, whole in pages
        )
    )
