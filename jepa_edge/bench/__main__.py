"""`python -m jepa_edge.bench`: compares the precisions of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.front import print_json, run_app, stderr

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Option(help="What `jepa-edge export` wrote.")],
    clip: Annotated[
        str, typer.Option(help="Clips to compare on: file, folder, dataset or builtin:heldout.")
    ] = "builtin:heldout",
    probe_data: Annotated[
        str, typer.Option(help="Recorded datasets to read the state from; commas between.")
    ] = "",
    rounds: Annotated[int, typer.Option(help="Interleaved rounds of the latency.")] = 60,
    threads: Annotated[int, typer.Option(help="Engine threads; 0 lets the engine choose.")] = 0,
    report: Annotated[Path | None, typer.Option(help="Folder for report.html and .json.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Compare a bundle's precisions: latency, closeness to fp32, state probes, surprise.

    Example: jepa-edge bench --bundle dist/nano-x86-cpu.jepa --report out/
    """
    from msgspec import to_builtins
    from rich.console import Console
    from rich.table import Table

    from jepa_edge.bench.pipeline import BenchConfig
    from jepa_edge.bench.pipeline import bench as run
    from jepa_edge.bench.report import closeness_rows, cost_rows, probe_rows

    config = BenchConfig(
        bundle=bundle,
        clip=clip,
        probe_data=probe_data,
        rounds=rounds,
        threads=threads,
        report=report,
    )
    with stderr.status("starting") as status:
        done = run(config, status.update)
    if json:
        print_json(done)
        return
    console, result = Console(), to_builtins(done)
    for head, rows in (cost_rows(result), closeness_rows(result), probe_rows(result)):
        if rows:
            table = Table(*head)
            for row in rows:
                table.add_row(*row)
            console.print(table)
    if done.report:
        console.print(f"report: {done.report}", highlight=False)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
