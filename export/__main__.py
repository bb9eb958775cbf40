"""`python -m jepa_edge.export`: a checkpoint → a bundle, checked against the source model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_edge.contract import WrongUseError
from jepa_edge.front import print_json, progress_bar, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.model.vjepa.config import ClipShape

app = typer.Typer(add_completion=False)


@app.command()
def export(
    model: Annotated[
        str,
        typer.Option(
            help="builtin:NAME, a .safetensors file, a training run's folder, a Hugging Face "
            "folder of V-JEPA 2, Meta's .pt file of V-JEPA 2, 2.1 or 2-AC, a LeWM checkpoint."
        ),
    ] = "builtin:nano",
    target: Annotated[str, typer.Option(help="A name of `jepa-edge devices`.")] = "x86-cpu",
    precision: Annotated[
        str, typer.Option(help="fp32, fp16, bf16, int8; commas between (default: the target's).")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="The bundle (default dist/<model>-<target>.jepa).")
    ] = None,
    calibration: Annotated[
        str, typer.Option(help="Clips that int8 ranges are measured on; never random data.")
    ] = "builtin:calibration",
    clips: Annotated[
        str, typer.Option(help="Held-out clips that every graph is compared on.")
    ] = "builtin:heldout",
    cache: Annotated[
        str | None,
        typer.Option(
            help="What a stream keeps its keys and values in: float32, float16 or int8. "
            "Default: float32 for fp32, else float16."
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(help="Imported models: frames per clip (default: theirs, at most 16)."),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Imported models: HEIGHTxWIDTH in pixels (default: theirs).")
    ] = "",
    fps: Annotated[
        float | None, typer.Option(help="Imported models: frames per second (default: 4).")
    ] = None,
    batch: Annotated[
        int,
        typer.Option(
            help="For a server: also graphs that compute up to so many robots at once; 0: none."
        ),
    ] = 0,
    keep_failing: Annotated[
        bool, typer.Option("--keep-failing", help="Write graphs that miss their floor, to look at.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(help="With --target triton: the bundle to serve, in place of --model."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option(help="With --target triton: native (ONNX Runtime, OpenVINO) or python."),
    ] = "native",
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export a checkpoint for a device, and check every graph against the source model.

    Example: python -m jepa_edge.export --target jetson
    """
    if target == "triton":
        from jepa_edge.contract import WrongUseError
        from jepa_edge.export.triton import TritonConfig, write_triton

        if bundle is None:
            raise WrongUseError("--target triton needs --bundle: what an export for a PC wrote")
        repository = write_triton(
            TritonConfig(
                bundle=bundle,
                out=out or Path("dist") / f"{bundle.name.partition('.')[0]}-triton",
                precision=precision or None,
                backend=backend,
            )
        )
        if json:
            print_json(repository)
        else:
            stderr.print(f"wrote {repository.repository} and {repository.service}")
            stderr.print(f"start it with: {repository.command}", highlight=False, soft_wrap=True)
        return
    from jepa_edge.contract import cache_type
    from jepa_edge.export.pipeline import ExportConfig
    from jepa_edge.export.pipeline import export as run
    from jepa_edge.quantize.show import show_measured

    config = ExportConfig(
        model=model,
        target=target,
        precisions=tuple(filter(None, precision.split(","))),
        out=out,
        calibration=calibration,
        clips=clips,
        keep_failing=keep_failing,
        cache=cache_type(cache) if cache else None,
        shape=_shape(frames, size, fps),
        batch=batch,
    )
    with progress_bar("reading clips") as progress:
        done = run(config, progress)
    for warning in done.warnings:
        stderr.print(f"warning: {warning}", style="yellow")
    if json:
        print_json(done)
    else:
        show_measured(done.manifest, done.bundle)


def _shape(frames: int | None, size: str, fps: float | None) -> ClipShape | None:
    """What the flags ask of an imported model; None when none is given."""
    from jepa_edge.model.vjepa.config import ClipShape

    if frames is None and not size and fps is None:
        return None
    height, x, width = size.partition("x")
    if size and not (x and height.isdigit() and width.isdigit()):
        raise WrongUseError(f"--size {size!r}: give it as HEIGHTxWIDTH, such as 224x384")
    return ClipShape(
        frames=frames,
        height=int(height) if size else None,
        width=int(width) if size else None,
        fps=4.0 if fps is None else fps,
    )


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
