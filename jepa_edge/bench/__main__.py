"""`python -m jepa_edge.bench`: measures bundles and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    against: Annotated[
        str, typer.Option(help="More bundles to measure beside it; commas between several.")
    ] = "",
    precision: Annotated[str, typer.Option(help="Only these; commas between several.")] = "",
    clip: Annotated[
        str, typer.Option(help="Media, folder, dataset or builtin:heldout; commas between several.")
    ] = "builtin:heldout",
    clip_limit: Annotated[int, typer.Option(help="Clips at the most.")] = 24,
    probe_data: Annotated[
        str, typer.Option(help="Recorded datasets to probe the latents with; commas between.")
    ] = "",
    probe_episodes: Annotated[int, typer.Option(help="Episodes of each at the most.")] = 30,
    rounds: Annotated[int, typer.Option(help="Timed calls of each graph and precision.")] = 30,
    threads: Annotated[int, typer.Option(help="Engine threads; 0 lets the engine choose.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the split of episodes.")] = 0,
    report: Annotated[
        Path | None, typer.Option(help="Folder for bench.html and bench.json.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure every precision of a bundle: speed, memory, agreement with fp32, what latents know.

    Example: jepa-edge bench --bundle dist/nano-x86-cpu.jepa --report out
    """
    from jepa_edge.bench.pipeline import BenchConfig
    from jepa_edge.bench.pipeline import bench as run
    from jepa_edge.bench.report import show, write_report

    config = BenchConfig(
        bundles=[bundle, *map(Path, filter(None, against.split(",")))],
        precisions=[name for name in precision.split(",") if name] or None,
        clip=clip,
        clip_limit=clip_limit,
        probe_data=[Path(part) for part in probe_data.split(",") if part],
        probe_episodes=probe_episodes,
        rounds=rounds,
        threads=threads,
        seed=seed,
    )
    with stderr.status("opening") as status:
        measured = run(config, status.update)
        written = write_report(measured, report) if report else []
    if json:
        print_json(measured)
    else:
        show(measured)
    for path in written:
        stderr.print(f"wrote {path}", highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
