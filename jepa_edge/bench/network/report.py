"""The report of paths and networks: console tables, `network.json`, and one page."""

from __future__ import annotations

from html import escape
from pathlib import Path

import msgspec

from jepa_edge.bench.network.facts import Age, NetworkReport, PathFacts, SuccessFacts
from jepa_edge.bench.page import STYLE
from jepa_edge.bench.report import where
from jepa_edge.bench.tables import Grid

NOTE = (
    "age from capture to hand-over on the robot's own clock, of the steps that were acted on; "
    "missed: steps without a command in time"
)


def grids(report: NetworkReport) -> list[Grid]:
    """The tables that have rows."""
    found = [_paths(report), _success(report)]
    return [grid for grid in found if grid.rows]


def write(report: NetworkReport, folder: Path) -> list[Path]:
    """Writes `network.json` and `network.html` into `folder`, each whole or not at all."""
    from jepa_edge.bench.network.crossover import plots

    folder.mkdir(parents=True, exist_ok=True)
    json = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    page = html_from(report, plots(report)).encode()
    written = []
    for name, content in (("network.json", json), ("network.html", page)):
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
        written.append(folder / name)
    return written


def html_from(report: NetworkReport, pictures: dict[str, str]) -> str:
    """The page; `pictures` are SVG elements by title."""
    title = f"Edge, cloud or both: {report.bundle}"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(where(report.machine, 'on this machine'))}; network: {escape(report.lab)}</p>",
        *(_html(grid) for grid in grids(report)),
        *(f"<h2>{escape(name)}</h2>\n{svg}" for name, svg in pictures.items()),
        "<h2>Notes</h2><ul>",
        *(f"<li>{escape(note)}</li>" for note in report.notes),
        "</ul>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def show(report: NetworkReport) -> None:
    """Prints the tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=150)
    for grid in grids(report):
        table = Table(title=grid.title, caption=grid.note, title_justify="left")
        for index, name in enumerate(grid.head):
            table.add_column(name, justify="right" if index else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False)


def _paths(report: NetworkReport) -> Grid:
    return Grid(
        title="Paths over networks",
        note=f"{NOTE}; answers later than {report.deadline_ms:.0f} ms are thrown away",
        head=[
            "network", "path", "p50 ms", "p95", "p99", "max", "missed", "by the cloud",
            "switches", "KiB/step up", "down", "USD/h",
        ],
        rows=[_path_row(found) for found in report.paths],
    )  # fmt: skip


def _path_row(found: PathFacts) -> list[str]:
    sizes = ["-" if b is None else f"{b / 1024:.1f}" for b in (found.bytes_up, found.bytes_down)]
    return [
        found.network,
        found.path,
        *_ages(found.age),
        f"{found.missed:.1%}",
        f"{found.cloud_share:.0%}",
        str(found.switches),
        *sizes,
        f"{found.usd_per_hour:.3f}",
    ]


def _success(report: NetworkReport) -> Grid:
    return Grid(
        title=f"Success in {report.world}",
        note="the same scenes for all, in virtual time; 95 % intervals (Wilson); held: share of "
        "the time without a command that is young enough; missed: steps without a decision in time",
        head=[
            "path", "network", "precision", "success", "95 %", "episodes", "collisions", "held",
            "missed", "age p50 ms", "p95", "p99", "max", "by the cloud", "KiB/step up", "USD/h",
        ],
        rows=[_success_row(found) for found in report.successes],
    )  # fmt: skip


def _success_row(found: SuccessFacts) -> list[str]:
    return [
        found.path,
        found.network,
        found.precision,
        f"{found.success.share:.0%}",
        f"{found.success.low:.0%} to {found.success.high:.0%}",
        str(found.episodes),
        f"{found.collisions_mean:.2f}",
        f"{found.held:.1%}",
        f"{found.missed:.1%}",
        *_ages(found.age),
        f"{found.cloud_share:.0%}",
        "-" if found.bytes_up is None else f"{found.bytes_up / 1024:.1f}",
        f"{found.usd_per_hour:.3f}",
    ]


def _ages(age: Age | None) -> list[str]:
    if age is None:
        return ["-"] * 4
    return [f"{ms:.0f}" for ms in (age.p50_ms, age.p95_ms, age.p99_ms, age.max_ms)]


def _html(grid: Grid) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in grid.head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows
    )
    return (
        f'<h2>{escape(grid.title)}</h2><p class="note">{escape(grid.note)}</p>'
        f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    )
