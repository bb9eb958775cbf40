"""`python -m jepa_edge.bench`: measures bundles and writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, progress_bar, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    against: Annotated[
        str, typer.Option(help="More bundles to measure beside it; commas between several.")
    ] = "",
    precision: Annotated[
        str, typer.Option(help="Only these; commas between several. In flights also: script.")
    ] = "",
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
    path: Annotated[
        str, typer.Option(help="Compare paths instead: edge, cloud, hybrid; commas between.")
    ] = "",
    network: Annotated[
        str, typer.Option(help="Links for --path: lan, wifi, 5g_good, …; commas between, or all.")
    ] = "lan,5g_good,lte_air",
    lab: Annotated[
        str, typer.Option(help="How links are made: proxy, or netns (root; real TCP stacks).")
    ] = "proxy",
    path_rounds: Annotated[int, typer.Option(help="Rounds in which paths take turns.")] = 2,
    path_steps: Annotated[
        int, typer.Option(help="Steps of each run over a real link; 0 leaves them out.")
    ] = 60,
    deadline_ms: Annotated[float, typer.Option(help="For a server's answer.")] = 150.0,
    budget_ms: Annotated[float, typer.Option(help="No command may be older.")] = 400.0,
    world: Annotated[
        str, typer.Option(help="Also fly every path here, for its success: forest, reach.")
    ] = "",
    level: Annotated[
        str, typer.Option(help="Of that world; its usual one if not given (jepa-edge record).")
    ] = "",
    episodes: Annotated[int, typer.Option(help="Scenes, shared by all paths.")] = 8,
    flight_steps: Annotated[int, typer.Option(help="Steps of a flight at the most.")] = 60,
    decision_ms: Annotated[
        float, typer.Option(help="In flights, what a decision takes; 0: as measured here.")
    ] = 0.0,
    cloud_speedup: Annotated[
        float, typer.Option(help="In flights, how much faster a server computes.")
    ] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure every precision of a bundle: speed, memory, agreement with fp32, what latents know.

    Example: jepa-edge bench --bundle dist/nano-x86-cpu.jepa --report out
    """
    if path:
        from jepa_edge.bench.network.measure import PathConfig
        from jepa_edge.bench.network.pipeline import Flying, bench_paths
        from jepa_edge.bench.network.profiles import PROFILES
        from jepa_edge.bench.network.report import show as show_paths
        from jepa_edge.bench.network.report import write as write_paths

        names = tuple(filter(None, precision.split(",")))
        with progress_bar("opening") as progress:
            found = bench_paths(
                PathConfig(
                    bundle=bundle,
                    precision=names[0] if names else None,
                    paths=tuple(path.split(",")),
                    networks=tuple(PROFILES if network == "all" else network.split(",")),
                    lab=lab,
                    clip="" if clip.startswith("builtin:") else clip,
                    rounds=path_rounds,
                    steps=path_steps,
                    deadline_ms=deadline_ms,
                    budget_ms=budget_ms,
                    threads=threads,
                    seed=seed,
                ),
                Flying(
                    world=world,
                    level=level,
                    precisions=names,
                    episodes=episodes,
                    cloud_speedup=cloud_speedup,
                    steps=flight_steps,
                    decision_ms=decision_ms,
                    logs=report,
                ),
                [Path(name) for name in against.split(",") if name],
                progress,
            )
        if json:
            print_json(found)
        else:
            show_paths(found)
        for file in write_paths(found, report) if report else []:
            stderr.print(f"wrote {file}", highlight=False, soft_wrap=True)
        return
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
    for file in written:
        stderr.print(f"wrote {file}", highlight=False, soft_wrap=True)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
