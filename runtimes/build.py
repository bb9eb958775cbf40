"""`jepa-edge build`: a bundle's TensorRT plans, made and judged on the board, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_edge.front import print_json, progress_bar, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.runtimes.plan_building import Built

app = typer.Typer(add_completion=False)


@app.command()
def build(
    bundle: Annotated[Path, typer.Option(help="A bundle for a TensorRT target.")],
    precision: Annotated[str, typer.Option(help="Only these; commas between several.")] = "",
    compiler: Annotated[
        str,
        typer.Option(help="tensorrt, or tensorrt-rtx: compiles on a machine without a GPU."),
    ] = "tensorrt",
    workspace_mib: Annotated[
        int, typer.Option(help="Scratch memory that kernels may be tried with.", min=16)
    ] = 1024,
    again: Annotated[bool, typer.Option("--again", help="Build what is there already.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Build a bundle's plans here, compare them with golden outputs, and only then let them run.

    The control loop never builds: on a board, run this once after installing a bundle. Kernel
    timings are kept, so that a second build is quick; a plan is kept by TensorRT version, GPU, L4T,
    power mode and graph.

    Example: jepa-edge build --bundle dist/nano-jetson-orin-nano.jepa
    """
    from jepa_edge.contract import CheckFailedError
    from jepa_edge.runtimes.plan_building import BuildConfig, build_plans

    config = BuildConfig(
        bundle=bundle,
        precisions=tuple(filter(None, precision.split(","))),
        compiler=compiler,
        workspace_mib=workspace_mib,
        again=again,
    )
    with progress_bar("reading the bundle") as progress:
        built = build_plans(config, progress)
    if json:
        print_json(built)
    else:
        _show(built)
    failed = [one for one in built.plans if one.status == "failed"]
    if failed:
        raise CheckFailedError(
            f"{len(failed)} of {len(built.plans)} plans may not run: {failed[0].graph}: "
            f"{failed[0].detail}"
        )


def _show(built: Built) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("graph", "status", "plan MiB", "build s", "p1 cosine", "fused", "open", "detail")
    for one in built.plans:
        worst = min((parity.cosine_p1 for parity in one.parity.values()), default=None)
        table.add_row(
            one.graph,
            one.status,
            f"{one.plan_mib:.1f}",
            f"{one.build_s:.1f}",
            "" if worst is None else f"{worst:.5f}",
            "" if one.audit is None else str(len(one.audit.attention_fused)),
            "" if one.audit is None else str(len(one.audit.attention_open)),
            one.detail,
        )
    Console().print(table)
    for warning in built.warnings:
        stderr.print(f"warning: {warning}", style="yellow")


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
