"""`python -m jepa_edge.devices`: targets, releases, and devices over SSH."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.devices.flash.__main__ import app as flash_app
from jepa_edge.devices.release.__main__ import app as release_app
from jepa_edge.front import run_app

app = typer.Typer(add_completion=False)


@app.callback(invoke_without_command=True)
def devices(
    context: typer.Context,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    fit: Annotated[
        Path | None,
        typer.Option(help="A bundle: does it fit each board's memory and rate, by estimate?"),
    ] = None,
) -> None:
    """List the targets, with their honest state; the commands act on devices.

    Example: jepa-edge devices --fit dist/nano-generic-onnx.jepa
    """
    from jepa_edge.devices.show import show_fit, show_targets

    if context.invoked_subcommand is not None:
        return
    if fit is None:
        show_targets(json=json)
    else:
        show_fit(fit, json=json)


app.registered_commands += release_app.registered_commands + flash_app.registered_commands
app.registered_groups += release_app.registered_groups


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
