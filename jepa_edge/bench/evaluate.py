"""`jepa-edge evaluate`: closed-loop success of a bundle's precisions in a simulated world."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_edge.front import print_json, progress_bar, run_app, stderr

if TYPE_CHECKING:
    from jepa_edge.bench.closed_loop import ClosedLoop

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Option(help="A bundle with step and rollout graphs.")],
    world: Annotated[str, typer.Option(help="forest, reach or rover.")] = "reach",
    level: Annotated[str, typer.Option(help="Difficulty; a wrong one lists them.")] = "",
    precision: Annotated[str, typer.Option(help="Only these; commas between several.")] = "",
    episodes: Annotated[int, typer.Option(help="Scenes, shared by all pilots.", min=1)] = 20,
    steps: Annotated[int, typer.Option(help="Steps of 0.2 s to arrive in.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Of the first scene.")] = 100_000,
    method: Annotated[str, typer.Option(help="Search: icem, cem or mppi.")] = "icem",
    iterations: Annotated[int, typer.Option(help="Rollout calls per plan.", min=1)] = 1,
    deadline_ms: Annotated[
        float, typer.Option(help="Cut plans off after this; 0 never does, and repeats exactly.")
    ] = 0.0,
    deaf: Annotated[
        bool, typer.Option("--deaf", help="Also without sound: what hearing is worth.")
    ] = False,
    rivals: Annotated[
        Path | None, typer.Option(help="Recordings to clone: rivals that need no world model.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Engine threads; 0 lets the engine choose.")] = 0,
    workers: Annotated[
        int, typer.Option(help="Processes that fly scenes side by side; for runs without deadline.")
    ] = 1,
    film: Annotated[
        Path | None, typer.Option(help="A .gif or .mp4 of the first precision's first episode.")
    ] = None,
    viewer: Annotated[
        Path | None,
        typer.Option(
            help="With --film: show what each plan expected as a picture, decoded by what "
            "`jepa-edge viewer` wrote."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of finished episodes; a second run goes on there.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Let every precision steer the robot to a goal that it is shown, and count who arrives.

    Example: jepa-edge evaluate --bundle dist/nano-x86-cpu.jepa --world reach --precision fp32,int8
    """
    import msgspec

    from jepa_edge.bench.closed_loop import ClosedLoopConfig
    from jepa_edge.bench.closed_loop import evaluate as run
    from jepa_edge.contract import WrongUseError
    from jepa_edge.runtimes.planner import PlannerConfig

    search = {"method": method, "iterations": iterations, "deadline_ms": deadline_ms or None}
    try:
        planner = msgspec.convert(search, PlannerConfig)
    except msgspec.ValidationError as error:
        raise WrongUseError(f"planner: {error}") from error
    config = ClosedLoopConfig(
        bundle=bundle,
        world=world,
        level=level,
        precisions=[name for name in precision.split(",") if name] or None,
        episodes=episodes,
        steps=steps,
        seed=seed,
        threads=threads,
        workers=workers,
        planner=planner,
        deaf=deaf,
        rivals=rivals,
        film=film,
        viewer=viewer,
        out=out,
    )
    with progress_bar(world) as progress:
        measured = run(config, progress)
    if json:
        print_json(measured)
    else:
        _show(measured)


def _show(measured: ClosedLoop) -> None:
    from rich.console import Console
    from rich.table import Table

    from jepa_edge.bench.flights import COLUMNS

    table = Table(*COLUMNS)
    for pilot in measured.pilots:
        table.add_row(*pilot.cells())
    Console().print(table)
    if measured.film:
        shown = measured.film
        ended = "arrives" if shown.success else "does not arrive"
        stderr.print(
            f"{shown.file}: {shown.pilot} {ended} after {shown.steps} steps; a step ahead, its "
            f"latents were wrong by {shown.latent_error:.1%} of their variance"
        )
    if measured.left_out:
        stderr.print(f"left out: {measured.left_out} scenes in which the expert does not arrive")


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
