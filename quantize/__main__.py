"""`python -m jepa_edge.quantize`: a bundle → the same bundle with another precision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_edge.front import print_json, progress_bar, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.quantize.pipeline import QuantizeConfig

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
    max_drop: Annotated[
        float, typer.Option(help="What mixed may lose: 1 - mean token cosine of any output.")
    ] = 0.005,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder for quantize.html: which layers int8 hurts, what was traded."),
    ] = None,
    repair_steps: Annotated[
        int,
        typer.Option(help="Distil the weights for so many steps where rounding is too coarse."),
    ] = 0,
    model: Annotated[
        str, typer.Option(help="The checkpoint to repair from (default: the bundle's source).")
    ] = "",
    recommend: Annotated[
        bool,
        typer.Option("--recommend", help="Make and measure all precisions; say which to ship."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Add a smaller precision to a bundle, calibrated on your clips and checked against its fp32.

    Needs neither the checkpoint nor PyTorch.

    A run that was stopped goes on where it was. ``mixed`` leaves the layers in floating point that
    int8 hurts, as few as --max-drop allows; --recommend says what to ship, fp16 included.

    Example: jepa-edge quantize --bundle dist/nano-x86-cpu.jepa --calibration flights/

    Example: jepa-edge quantize --bundle dist/nano-x86-cpu.jepa --recommend --report out/quantize
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
        max_drop=max_drop,
        report=report,
        is_timed=report is not None,
        repair_steps=repair_steps,
        model=model,
    )
    if recommend:
        _recommend(config, json=json)
        return
    with progress_bar("reading clips") as progress:
        done = run(config, progress)
    for warning in done.warnings:
        stderr.print(f"warning: {warning}", style="yellow")
    if json:
        print_json(done)
    else:
        show_measured(done.manifest, done.bundle)


def _recommend(config: QuantizeConfig, *, json: bool) -> None:
    from jepa_edge.quantize.advise import advise
    from jepa_edge.quantize.show import show_verdict

    with progress_bar("reading clips") as progress:
        advised = advise(config, progress)
    for warning in advised.warnings:
        stderr.print(f"warning: {warning}", style="yellow")
    if json:
        print_json(advised.verdict)
    else:
        show_verdict(advised.verdict)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
