"""Writes the tables between docs/cloud.md's markers from the committed results; `--check` looks.

jepa-edge bench --bundle dist/nano.jepa --path edge,cloud,hybrid --network all --lab netns \
    --world forest --precision int8,fp32 --report out
cp out/network.json benchmarks/results/network/forest.json && python benchmarks/network_tables.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from load import LoadReport
from make_tables import replaced, rewritten
from netem_check import NetemReport

from jepa_edge.bench.network.facts import NetworkReport
from jepa_edge.bench.network.report import grids
from jepa_edge.bench.report import where
from jepa_edge.bench.tables import Grid

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NONE = "No measurement is committed yet.\n"


def network_markdown(report: NetworkReport) -> str:
    """Every table of a report, and the links it was measured over."""
    head = f"{where(report.machine, 'on this machine')}; network: {report.lab}.\n"
    links = ", ".join(f"{name} {ms:.0f} ms" for name, ms in report.links.items())
    models = ", ".join(
        f"{m.name} {m.precision} ({m.parameters / 1e6:.1f} M) {m.decision_ms:.1f} ms"
        for m in report.models
    )
    facts = f"One decision on board: {models}. A round trip (p95, one step as JPEG): {links}.\n"
    notes = "\n".join(f"- {note}" for note in report.notes)
    return "\n".join([head, facts, *map(_table, grids(report)), notes, ""])


def load_markdown(report: LoadReport) -> str:
    """A row for each number of robots and setting."""
    rows = [
        [
            str(facts.robots),
            name,
            f"{facts.per_second:.1f}",
            f"{facts.latency_ms_p50:.1f}",
            f"{facts.latency_ms_p99:.1f}",
            f"{facts.in_time:.1%}",
            f"{facts.errors} / {facts.wrong}",
            f"{facts.farthest:.3f}",
        ]
        for name, found in report.results.items()
        for facts in found
    ]
    rows.sort(key=lambda row: int(row[0]))
    grid = Grid(
        title=f"Load: {report.bundle} {report.precision}",
        note=f"{report.steps} steps of each robot, one each {report.period_s:g} s; robots and "
        "server share this machine's cores; farthest: an answer from what the robot gets alone "
        "(another robot's is 0.9 away)",
        head=[
            "robots",
            "server",
            "answers/s",
            "p50 ms",
            "p99 ms",
            "in time",
            "errors / wrong",
            "farthest",
        ],
        rows=rows,
    )
    return f"{where(report.machine, 'on this machine')}.\n\n{_table(grid)}"


def netem_markdown(report: NetemReport) -> str:
    """Two rows for each profile: ours and netem's."""
    named = [("-", "virtual machine alone", report.bare, "")]
    for pair in report.profiles:
        named.append((pair.profile, "ours", pair.ours, f"{pair.apart:.3f}"))
        named.append((pair.profile, "netem", pair.theirs, ""))
    rows = []
    for profile, name, side, distance in named:
        lost = f"{side.lost.share:.1%} ({side.lost.low:.1%} to {side.lost.high:.1%})"
        delays = [f"{ms:.1f}" for ms in (side.p5_ms, side.p50_ms, side.p95_ms, side.p99_ms)]
        rate = f"{side.rate_mbit:.1f} of {side.offered_mbit:.1f}"
        rows.append([profile, name, *delays, lost, rate, distance])
    sent = report.profiles[0].ours.sent
    grid = Grid(
        title="Our laboratory and netem, the uplinks of the same profiles",
        note=f"{sent} probes of 100 bytes one way, one clock; lost with 95 % interval; rate "
        f"of a flood; netem of Linux {report.kernel} in a virtual machine (software emulation)",
        head=[
            "profile",
            "",
            "p5 ms",
            "p50",
            "p95",
            "p99",
            "lost",
            "Mbit/s of those sent",
            "KS distance",
        ],
        rows=rows,
    )
    return f"{where(report.machine, 'on this machine')}.\n\n{_table(grid)}"


def tables() -> str:
    """The Markdown of every committed result."""
    parts = []
    for file in sorted((RESULTS / "network").glob("*.json")):
        report = msgspec.json.decode(file.read_bytes(), type=NetworkReport)
        parts.append(f"### {file.stem}: {report.bundle} {report.precision}\n\n")
        parts.append(network_markdown(report))
    for file in sorted((RESULTS / "load").glob("*.json")):
        loaded = msgspec.json.decode(file.read_bytes(), type=LoadReport)
        parts.append(f"### Load\n\n{load_markdown(loaded)}")
    for file in sorted((RESULTS / "netem").glob("*.json")):
        checked = msgspec.json.decode(file.read_bytes(), type=NetemReport)
        parts.append(f"### The laboratory checked\n\n{netem_markdown(checked)}")
    return "\n".join(parts) or NONE


def _table(grid: Grid) -> str:
    align = ["---", *["---:"] * (len(grid.head) - 1)]
    rows = "\n".join("| " + " | ".join(row) + " |" for row in [grid.head, align, *grid.rows])
    return f"**{grid.title}** ({grid.note})\n\n{rows}\n"


if __name__ == "__main__":
    sys.exit(rewritten(ROOT / "docs" / "cloud.md", lambda old: replaced(old, tables())))
