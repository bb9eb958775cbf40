"""A page that needs nothing from outside, and files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from jepa_edge.bench.tables import Grid

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.note { opacity: .7; margin: .2rem 0 .6rem; }
p.verdict { font-size: 1.4rem; font-weight: 600; margin: .6rem 0; }
p.warn { border-left: .3rem solid #ee854a; padding-left: .6rem; }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """An HTML document of `body`, elements ready to stand in it."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def table(grid: Grid) -> str:
    """`grid` as a heading, its note and a table; empty if it has no rows."""
    if not grid.rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in grid.head)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows
    )
    return (
        f'<h2>{escape(grid.title)}</h2>\n<p class="note">{escape(grid.note)}</p>\n'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{rows}</tbody></table></div>"
    )


def write_whole(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes `files` by name into `folder`, each whole or not at all; where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in files.items():
        part = folder / f"{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)
        written.append(folder / name)
    return written
