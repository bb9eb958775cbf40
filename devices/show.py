"""What `jepa-edge devices` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from jepa_edge.devices.targets import target, target_names
from jepa_edge.front import print_json


def show_targets(*, json: bool) -> None:
    """Prints every target with its honest state."""
    found = [target(name) for name in target_names()]
    if json:
        print_json({"targets": found})
        return
    table = Table("target", "what", "engine", "precisions", "state")
    for one in found:
        table.add_row(one.name, one.title, one.engine, ", ".join(one.precisions), one.state)
    Console().print(table)


def show_fit(path: Path, *, json: bool) -> None:
    """Prints, for each board, whether the bundle at `path` fits."""
    raise NotImplementedError
