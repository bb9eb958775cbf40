"""`jepa-edge viewer`: trains a small decoder that shows people what latents hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from jepa_edge.contract import CheckFailedError, TensorSpec, WrongUseError
from jepa_edge.front import print_json, progress_bar, run_app
from jepa_edge.runtimes.viewer import FACTS, PICTURES, POOLED, Viewer, ViewerFacts

if TYPE_CHECKING:
    from jepa_edge.train.viewer import Progress, TrainedViewer, ViewerConfig

app = typer.Typer(add_completion=False)


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A viewer on disk, and whose latents it decodes."""

    file: str
    facts: ViewerFacts


@app.command()
def viewer(
    data: Annotated[
        str,
        typer.Option(help="Recorded dataset, folder of videos or video; commas between several."),
    ],
    model: Annotated[
        str, typer.Option(help="Whose latents: what `jepa-edge export --model` takes.")
    ] = "builtin:nano",
    out: Annotated[
        Path | None, typer.Option(help="The file (default dist/<model>-viewer.onnx).")
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1)] = 1000,
    height: Annotated[int, typer.Option(help="Of the pictures, in pixels; a multiple of 8.")] = 48,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Train a decoder for people to look at latents with; it is never part of a control path.

    Example: jepa-edge viewer --model builtin:reach --data data/reach --out dist/reach-viewer.onnx
    """
    from jepa_edge.train.viewer import ViewerConfig

    config = ViewerConfig(data=data, steps=steps, height=height)
    with progress_bar("reading clips") as progress:
        made = make_viewer(model, config, out, progress)
    if json:
        print_json(made)
    else:
        typer.echo(f"{made.file}: held-out error {made.facts.error:.3f} (1 = the mean picture)")


def make_viewer(model: str, config: ViewerConfig, out: Path | None, progress: Progress) -> Written:
    """Trains a viewer of the checkpoint `model` and writes it to `out`, whole or not at all.

    Raises:
        WrongUseError: no such builtin, a model that sees nothing, or no place to write to.
        InputError: no such checkpoint, or no recordings to train on.
        CheckFailedError: the file shows something else than what was trained.
    """
    from jepa_edge.model.checkpoint import load_checkpoint
    from jepa_edge.train.viewer import train_viewer

    checkpoint = load_checkpoint(model)
    known = checkpoint.model.facts()
    file = out or Path("dist") / f"{known.name}-viewer.onnx"
    _make_room(file)
    trained = train_viewer(checkpoint.model, config, progress)
    facts = ViewerFacts(
        model=known.name,
        pooled_dim=known.pooled_dim,
        checkpoint_sha256=checkpoint.sha256,
        error=round(trained.error, 4),
    )
    write_viewer(trained, facts, file)
    return Written(file=str(file), facts=facts)


def write_viewer(trained: TrainedViewer, facts: ViewerFacts, file: Path) -> None:
    """Writes one ONNX file with `facts` in its metadata, compared with the decoder in its engine.

    Raises `CheckFailedError` when they differ; there is no file then.
    """
    import onnx

    from jepa_edge.export.trace import onnx_from
    from jepa_edge.model.graph_source import GraphSource

    source = GraphSource(
        name="viewer",
        module=trained.decoder,
        inputs=[TensorSpec(name=POOLED, shape=(-1, facts.pooled_dim))],
        outputs=[TensorSpec(name=PICTURES, shape=(-1, *trained.heldout.pictures.shape[1:]))],
        dynamic={POOLED: {0: "n"}},
    )
    graph = onnx_from(source)
    onnx.helper.set_model_props(graph, {FACTS: msgspec.json.encode(facts).decode()})
    part = file.with_name(f".part-{file.name}")
    try:
        onnx.save(graph, str(part))
        _compare(Viewer(part), trained)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _compare(viewer: Viewer, trained: TrainedViewer) -> None:
    latents = trained.heldout.latents[:64]
    apart = abs(viewer.pictures(latents).astype(int) - trained.decoder.pictures(latents)).max()
    if apart > 1:
        raise CheckFailedError(f"the written viewer differs from the trained one by {apart} of 255")


def _make_room(file: Path) -> None:
    """Raises `WrongUseError`, before anything is trained, where `file` cannot be written."""
    if file.suffix != ".onnx" or file.is_dir():
        raise WrongUseError(f"--out {file}: a viewer is one file; let its name end in .onnx")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUseError(f"--out {file}: {error}") from error


def main() -> None:
    """Runs the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
