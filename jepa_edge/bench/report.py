"""The report: tables on the console, `bench.json`, and one page that needs nothing from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path

import msgspec

from jepa_edge.bench.facts import Machine, Report
from jepa_edge.bench.page import page, table, write_whole
from jepa_edge.bench.plots import plots
from jepa_edge.bench.tables import grids


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes `bench.json` and `bench.html` into `folder`, each whole or not at all."""
    html = html_from(report, plots(report)).encode()
    json = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    return write_whole(folder, {"bench.json": json, "bench.html": html})


def html_from(report: Report, pictures: dict[str, str]) -> str:
    """The page; `pictures` are SVG elements by title."""
    names = " and ".join(dict.fromkeys(variant.bundle for variant in report.variants))
    body = [
        f"<h1>Bench of {escape(names)}</h1>",
        f"<p>{escape(where(report.machine, report.measured))}</p>",
        *(table(grid) for grid in grids(report)),
        *(f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in pictures.items()),
        "<h2>Notes</h2><ul>",
        *(f"<li>{escape(note)}</li>" for note in _notes(report)),
        "</ul>",
    ]
    return page(f"Bench of {names}", body)


def show(report: Report) -> None:
    """Prints the tables on the console, the long ones only in the written report."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)  # a file or a pipe has no width of its own
    console.print(where(report.machine, report.measured), highlight=False)
    for grid in grids(report):
        if grid.title == "Latency":
            continue
        table = Table(title=grid.title, caption=grid.note, title_justify="left")
        for index, name in enumerate(grid.head):
            table.add_column(name, justify="right" if index else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def where(machine: Machine, measured: str) -> str:
    """One sentence on where the numbers come from."""
    threads = f"{machine.threads} engine threads" if machine.threads else "the engine's own threads"
    return (
        f"Measured {measured}: {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, "
        f"{threads}, load {machine.load_1min} before and {machine.load_1min_end} after"
    )


def _notes(report: Report) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in report.machine.versions.items())
    clips = ", ".join(report.clips)
    return [*report.notes, f"{report.machine.system}; {versions}", f"clips: {clips}"]
