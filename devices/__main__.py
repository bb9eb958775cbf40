"""`python -m jepa_edge.devices`: lists what export can write for."""

from __future__ import annotations

from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app

app = typer.Typer(add_completion=False)


@app.command()
def devices(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """List the targets of `jepa-edge export`, with their honest state.

    Example: jepa-edge devices
    """
    from rich.console import Console
    from rich.table import Table

    from jepa_edge.devices.targets import target, target_names

    found = [target(name) for name in target_names()]
    if json:
        print_json({"targets": found})
        return
    table = Table("target", "what", "engine", "precisions", "state")
    for one in found:
        table.add_row(one.name, one.title, one.engine, ", ".join(one.precisions), one.state)
    Console().print(table)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
