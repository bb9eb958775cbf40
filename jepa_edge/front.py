"""Front doors: how every command line reports errors and machine-readable results."""

from __future__ import annotations

import sys
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
