"""`python -m jepa_edge.worlds`: records a simulated robot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def record(
    world: Annotated[str, typer.Option(help="forest (a drone), reach (an arm), rover.")] = "forest",
    level: Annotated[
        str, typer.Option(help="Difficulty (a wrong one lists them); all: each in turn.")
    ] = "",
    episodes: Annotated[int, typer.Option(help="Episodes in all; those there are kept.")] = 100,
    steps: Annotated[int, typer.Option(help="Steps of 0.2 s in an episode.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed; the same one gives the same episodes.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    expert_share: Annotated[float, typer.Option(help="Share flown by a noisy expert.")] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Dataset folder (default data/<world>).")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Record a simulated robot: pictures, sound, actions and state, as a LeRobot v3 dataset.

    Example: jepa-edge record --world forest --episodes 200 --out data/forest
    """
    from rich.progress import Progress

    from jepa_edge.worlds.record import RecordConfig
    from jepa_edge.worlds.record import record as run

    config = RecordConfig(
        world=world,
        out=out or Path("data") / world,
        episodes=episodes,
        steps=steps,
        seed=seed,
        workers=workers,
        expert_share=expert_share,
        level=level,
    )
    with Progress(console=stderr) as bars:
        task = bars.add_task(f"recording {world}", total=episodes)
        done = run(config, lambda n, total: bars.update(task, completed=n, total=total))
    if json:
        print_json(done)
    else:
        typer.echo(f"{done.folder}: {done.episodes} episodes, {done.recorded_now} recorded now")


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
