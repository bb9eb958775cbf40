"""The report: tables on the console, `bench.json`, and one page that needs nothing from outside."""

from __future__ import annotations

from html import escape
from pathlib import Path

import msgspec

from jepa_edge.bench.facts import Machine, Report
from jepa_edge.bench.plots import plots
from jepa_edge.bench.tables import Grid, grids

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { opacity: .7; margin: .2rem 0 .6rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes `bench.json` and `bench.html` into `folder`, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    page = html_from(report, plots(report)).encode()
    json = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    written = []
    for name, content in (("bench.json", json), ("bench.html", page)):
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
        written.append(folder / name)
    return written


def html_from(report: Report, pictures: dict[str, str]) -> str:
    """The page; `pictures` are SVG elements by title."""
    names = " and ".join(dict.fromkeys(variant.bundle for variant in report.variants))
    body = [
        f"<h1>Bench of {escape(names)}</h1>",
        f"<p>{escape(where(report.machine, report.measured))}</p>",
        *(_table(grid) for grid in grids(report)),
        *(f"<h2>{escape(title)}</h2>\n{svg}" for title, svg in pictures.items()),
        "<h2>Notes</h2><ul>",
        *(f"<li>{escape(note)}</li>" for note in _notes(report)),
        "</ul>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Bench of {escape(names)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


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


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in grid.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows
    )
    return (
        f'<h2>{escape(grid.title)}</h2>\n<p class="note">{escape(grid.note)}</p>\n'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )
