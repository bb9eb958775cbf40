"""`python -m jepa_edge.train`: trains a JEPA on recorded clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app

app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@app.command()
def train(
    preset: Annotated[str | None, typer.Option(help="Model size: nano … giant.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Recorded dataset, folder of videos or video; commas between several."),
    ] = None,
    out: Annotated[str | None, typer.Option(help="Folder of the run; resumed if there.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML recipe; flags win over it.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps in all.")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips per step and process.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    objective: Annotated[
        str | None, typer.Option(help="l1, l2, smooth_l1, cosine or infonce.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="future (80/20 of time), multiblock, or both.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="ema (V-JEPA) or shared (with SIGReg, LeJEPA).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights, clips and masks.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a JEPA on recorded clips; run again to resume, torchrun for several processes.

    Example: jepa-edge train --preset nano --data data/forest,data/reach --out runs/a
    """
    from jepa_edge.train.config import config_from_flags
    from jepa_edge.train.pipeline import train as run

    flags = {
        "preset": preset,
        "data": data,
        "out": out,
        "steps": steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "objective": objective,
        "split": split,
        "target": target,
        "seed": seed,
    }
    done = run(config_from_flags(config, flags))
    if json:
        print_json(done)
        return
    typer.echo(f"{done.checkpoint}: {done.parameters / 1e6:.2f} M parameters, step {done.steps}")
    for told in done.grounded:
        typer.echo(f"held-out {told.name}: seen within {told.seen:.3g}, rolled {told.rolled:.3g}")
    held = done.heldout
    if held is None:
        return
    typer.echo(
        f"held-out error (1 = the mean): predicted {held.predict:.3f}, copy-last "
        f"{held.copy_last:.3f}; pooled {held.pooled:.3f}, copy-last {held.pooled_copy_last:.3f}"
    )


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
