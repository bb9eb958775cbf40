"""`python -m jepa_edge.export`: a checkpoint → a bundle, checked against the source model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_edge.front import print_json, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.export.pipeline import Exported

app = typer.Typer(add_completion=False)


@app.command()
def export(
    model: Annotated[
        str, typer.Option(help="builtin:NAME, a .safetensors file, or a training run's folder.")
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
    keep_failing: Annotated[
        bool, typer.Option("--keep-failing", help="Write graphs that miss their floor, to look at.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export a checkpoint for a device, and check every graph against the source model.

    Example: python -m jepa_edge.export --target jetson
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from jepa_edge.export.pipeline import ExportConfig
    from jepa_edge.export.pipeline import export as run

    config = ExportConfig(
        model=model,
        target=target,
        precisions=tuple(filter(None, precision.split(","))),
        out=out,
        calibration=calibration,
        clips=clips,
        keep_failing=keep_failing,
    )
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=stderr, transient=True) as bars:
        task = bars.add_task("reading clips", total=None)
        done = run(
            config,
            lambda what, n, total: bars.update(task, description=what, completed=n, total=total),
        )
    for warning in done.warnings:
        stderr.print(f"warning: {warning}", style="yellow")
    if json:
        print_json(done)
    else:
        _show(done)


def _show(done: Exported) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("precision", "graph", "output", "cosine mean", "p1", "worst", "relative L2")
    checks: dict[tuple[str, str], str] = {}
    for precision, entry in done.manifest.precisions.items():
        for name, graph in entry.graphs.items():
            for output, got in graph.parity.items():
                numbers = (got.cosine_mean, got.cosine_p1, got.cosine_worst, got.relative_l2)
                table.add_row(precision, name, output, *(f"{number:.5f}" for number in numbers))
            checks |= {(c.name, c.status): f"{c.detail} ({precision} {name})" for c in graph.checks}
    console.print(table)
    for (name, status), detail in checks.items():
        console.print(f"{status}: {name}  [dim]{detail}[/]", highlight=False)
    clips = len(done.manifest.provenance.parity_clips)
    console.print(f"compared with eager fp32 on {clips} held-out clips")
    console.print(f"wrote {done.bundle}", highlight=False)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
