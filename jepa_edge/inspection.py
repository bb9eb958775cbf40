"""`jepa-edge inspect`: what a bundle holds and whether it is whole; packs and unpacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jepa_edge.bundle import Bundle, Graph, opened, pack, unpack
from jepa_edge.contract import InputError, TensorSpec, WrongUseError
from jepa_edge.front import print_json, run_app
from jepa_edge.runtimes.profile import Profile, profile_of

SLOWEST = 8

app = typer.Typer(add_completion=False)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="A bundle: a .jepa folder or a .tar.zst.")],
    unpack_to: Annotated[
        Path | None, typer.Option("--unpack", help="Unpack a .tar.zst into this new folder.")
    ] = None,
    pack_to: Annotated[
        Path | None, typer.Option("--pack", help="Pack the bundle into this .tar.zst file.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            help="Time every node of these graphs (commas between, or all) in its engine."
        ),
    ] = "",
    precision: Annotated[
        str | None, typer.Option(help="Which precision to profile (default: the bundle's).")
    ] = None,
    attention: Annotated[
        str,
        typer.Option(
            help="A clip (or builtin:heldout): draw what each head attends to in it, across space, "
            "time and sound."
        ),
    ] = "",
    report: Annotated[
        Path, typer.Option(help="Folder for attention.html and attention.json.")
    ] = Path("out/inspect"),
    json: Annotated[
        bool, typer.Option("--json", help="The manifest, or the profiles, as JSON on stdout.")
    ] = False,
) -> None:
    """Show a bundle, after checking every file against its hash; pack, unpack or look into it.

    Example: jepa-edge inspect dist/nano-x86-cpu.jepa --profile encoder --precision int8

    Example: jepa-edge inspect dist/nano-x86-cpu.jepa --attention clip.mp4 --report out/attention
    """
    if unpack_to:
        unpack_bundle(bundle, unpack_to)
    with opened(unpack_to or bundle) as found:
        if pack_to:
            pack_bundle(found, pack_to)
        if attention:
            draw_attention(found, attention, report, json=json)
        elif profile:
            show_profiles(profiles_of(found, profile, precision), json=json)
        elif json:
            print_json(found.manifest)
        else:
            show(found)


def profiles_of(bundle: Bundle, graphs: str, precision: str | None) -> list[Profile]:
    """A profile for each of `graphs`. Raises as `profile_of` does."""
    there = list(bundle.manifest.precision(precision).graphs)
    wanted = there if graphs == "all" else [name for name in graphs.split(",") if name]
    return [profile_of(bundle, name, precision) for name in wanted]


def draw_attention(bundle: Bundle, clip: str, folder: Path, *, json: bool) -> None:
    """Writes the pictures into `folder`. Raises as `write_attention` does."""
    from jepa_edge.bench.attention import write_attention

    written = [str(path) for path in write_attention(bundle, clip, folder)]
    if json:
        print_json({"written": written})
    for path in [] if json else written:
        print(path)  # noqa: T201


def show_profiles(profiles: list[Profile], *, json: bool) -> None:
    """Prints what takes the time: operators first, then the slowest nodes."""
    from rich.console import Console
    from rich.table import Table

    if json:
        print_json({"profiles": profiles})
        return
    console = Console()
    for profile in profiles:
        console.print(
            f"[bold]{profile.graph}[/] in {profile.precision} on {profile.engine}: "
            f"{profile.total_ms:.1f} ms in {len(profile.nodes)} nodes",
            highlight=False,
        )
        table = Table("operator", "kernel", "nodes", "ms", "share")
        for group in profile.groups:
            numbers = str(group.nodes), f"{group.ms:.2f}", f"{group.share:.1%}"
            table.add_row(group.operator, group.kernel, *numbers)
        console.print(table)
        slowest = Table("slowest nodes", "operator", "ms")
        for node in profile.nodes[:SLOWEST]:
            slowest.add_row(node.name, node.operator, f"{node.ms:.2f}")
        console.print(slowest)


def unpack_bundle(path: Path, folder: Path) -> None:
    """Unpacks `path` into the new `folder`.

    Raises:
        WrongUseError: `folder` is there already.
        InputError: `path` is no packed bundle.
    """
    if folder.exists():
        raise WrongUseError(f"{folder} is there already; choose another --unpack")
    if not path.is_file():
        raise InputError(f"no packed bundle at {path}; --unpack takes a .tar.zst file")
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    unpack(path, part)
    part.rename(folder)


def pack_bundle(bundle: Bundle, path: Path) -> None:
    """Packs `bundle` into `path`. Raises `WrongUseError` if the name could not be opened again."""
    if not path.name.endswith(".tar.zst"):
        raise WrongUseError(f"--pack {path}: the name must end in .tar.zst")
    path.parent.mkdir(parents=True, exist_ok=True)
    pack(bundle, path)


def show(bundle: Bundle) -> None:
    """Prints a bundle's facts and one line for each graph of each precision."""
    from rich.console import Console
    from rich.table import Table

    manifest, model = bundle.manifest, bundle.manifest.model
    console = Console()
    console.print(
        f"[bold]{manifest.name}[/] for {manifest.target} ({manifest.engine}), "
        f"{model.parameters / 1e6:.2f} M parameters, {model.attention}, window {model.window} "
        f"steps, horizon {model.horizon}; {len(manifest.files)} files verified",
        highlight=False,
    )
    table = Table("precision", "graph", "inputs", "outputs", "cosine mean", "checks")
    for name, precision in manifest.precisions.items():
        shown = f"{name} (default)" if name == manifest.default_precision else name
        for graph_name, graph in precision.graphs.items():
            title = f"{graph_name} ({graph.precision})" if graph.precision else graph_name
            table.add_row(shown, title, *_cells(graph))
            shown = ""
    console.print(table)


def _cells(graph: Graph) -> list[str]:
    worst = min((parity.cosine_mean for parity in graph.parity.values()), default=None)
    return [
        _shapes(graph.inputs),
        _shapes(graph.outputs),
        "not measured" if worst is None else f"{worst:.5f}",
        "\n".join(f"{check.name}: {check.status}" for check in graph.checks),
    ]


def _shapes(specs: list[TensorSpec]) -> str:
    return "\n".join(f"{spec.name} {'x'.join(map(str, spec.shape))}" for spec in specs)


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
