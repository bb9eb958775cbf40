"""Front doors: how every command line reports errors and machine-readable results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import msgspec
import typer
from rich.console import Console

from jepa_edge.contract import JepaEdgeError

stderr = Console(stderr=True)


def run_app(app: typer.Typer, arguments: list[str] | None = None, name: str = "") -> NoReturn:
    """Runs `app`; what a person can mend is one line on stderr and the error's exit code."""
    try:
        app(arguments, prog_name=name or None)
    except JepaEdgeError as error:
        stderr.print("[bold red]error:[/]", end=" ")
        stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        stderr.print("stopped")
        sys.exit(130)
    sys.exit(0)


def print_json(result: Any) -> None:  # noqa: ANN401  (any structure msgspec knows)
    """Prints one JSON object on stdout, and nothing else."""
    sys.stdout.write(msgspec.json.encode(result, enc_hook=str).decode() + "\n")


@contextmanager
def progress_bar(first: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr while the block runs, moved by calls of (what, done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=stderr, transient=True) as bars:
        task = bars.add_task(first, total=None)
        yield lambda what, done, total: bars.update(
            task, description=what, completed=done, total=total
        )
