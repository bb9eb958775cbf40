"""`python -m jepa_edge.quantize`: a bundle → the same bundle with another precision."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, progress_bar, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def quantize(
    bundle: Annotated[Path, typer.Option(help="A bundle that holds fp32 graphs.")],
    precision: Annotated[
        str, typer.Option(help="fp16, bf16, int8w, fp8, mixed, int8 or int4w.")
    ] = "int8",
    recipe: Annotated[
        Path | None, typer.Option(help="A TOML recipe in place of the precision's own.")
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Clips that int8 ranges are measured on; never random data.")
    ] = "builtin:calibration",
    clips: Annotated[
        str, typer.Option(help="Held-out clips that every graph is compared on.")
    ] = "builtin:heldout",
    out: Annotated[
        Path | None, typer.Option(help="The new bundle (default <bundle>-<precision>.jepa).")
    ] = None,
    keep_failing: Annotated[
        bool, typer.Option("--keep-failing", help="Write graphs that miss their floor, to look at.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Add a smaller precision to a bundle, calibrated on your clips and checked against its fp32.

    Needs neither the checkpoint nor PyTorch.

    Example: jepa-edge quantize --bundle dist/nano-x86-cpu.jepa --calibration flights/
    """
    from jepa_edge.quantize.pipeline import QuantizeConfig
    from jepa_edge.quantize.pipeline import quantize as run
    from jepa_edge.quantize.show import show_measured

    config = QuantizeConfig(
        bundle=bundle,
        precision=precision,
        recipe=recipe,
        calibration=calibration,
        clips=clips,
        out=out,
        keep_failing=keep_failing,
    )
    with progress_bar("reading clips") as progress:
        done = run(config, progress)
    for warning in done.warnings:
        stderr.print(f"warning: {warning}", style="yellow")
    if json:
        print_json(done)
    else:
        show_measured(done.manifest, done.bundle)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
