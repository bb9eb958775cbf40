"""What `jepa-edge devices` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from jepa_edge.bundle import opened
from jepa_edge.devices.fit import Fit, fits
from jepa_edge.devices.targets import target, target_names
from jepa_edge.front import print_json


def show_targets(*, json: bool) -> None:
    """Prints every target with its honest state."""
    found = [target(name) for name in target_names()]
    if json:
        print_json({"targets": found})
        return
    table = Table(
        Column("target", no_wrap=True), "what", "engine", "precisions", "systems", "state"
    )
    for one in found:
        systems = [one.system, *one.other_systems] if one.system else []
        named = "; ".join(system.name.partition(",")[0] for system in systems) or "not flashed"
        table.add_row(one.name, one.title, one.engine, ", ".join(one.precisions), named, one.state)
    Console().print(table)


def show_fit(path: Path, *, json: bool) -> None:
    """Prints, for each board and precision, whether the bundle at `path` should fit."""
    with opened(path) as bundle:
        found = fits(bundle, [target(name) for name in target_names()])
    if json:
        print_json({"fits": found})
        return
    table = Table(Column("target", no_wrap=True), "precision", "memory", "step", "bound by", "fits")
    for one in found:
        table.add_row(*_row(one))
    Console().print(table)
    Console(stderr=True).print(
        "estimated from data sheets, not measured; jepa-edge bench measures on the board"
    )


def _row(one: Fit) -> list[str]:
    known = one.step_ms is not None
    if not one.fits_memory:
        verdict = "no: memory"
    elif one.fits_rate is None:
        verdict = "memory yes, rate unknown"
    else:
        verdict = "yes" if one.fits_rate else f"no: a step is {one.budget_ms:g} ms"
    step = f"{one.step_ms:g} ms" if known else "unknown"
    return [one.target, one.precision, f"{one.memory_mb:g} MB", step, one.bound or "", verdict]
