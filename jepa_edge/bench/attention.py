"""Where a model looks and listens: attention by head, across space, time and sound.

The weights are read from the exported fp32 graph itself, at its softmax nodes, while it encodes a
real clip: from the tokens of the newest step to every token of the window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bench.page import page, table, write_whole
from jepa_edge.bench.plots import COLOURS, drawing, svg
from jepa_edge.bench.tables import Grid
from jepa_edge.bundle import Bundle, Manifest
from jepa_edge.contract import FloatArray, MissingExtraError, WrongUseError
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.media.features import Frames, frames_from_video

ENCODER, REFERENCE = "encoder", "fp32"
HEAD_INCHES = 1.7


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """How the tokens of a step lie: `rows` x `columns` of the picture, then `bands` of pitch."""

    steps: int
    rows: int
    columns: int
    bands: int


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What one head of one layer attends to, from the newest step; all of it together is 1.

    Attributes:
        layer: as the graph names it.
        head: its number.
        space: `[rows, columns]`, over all steps.
        time: `[steps]`, the oldest first, over both senses.
        sound: `[bands, steps]`, low pitch first.
    """

    layer: str
    head: int
    space: list[list[float]]
    time: list[float]
    sound: list[list[float]]

    @property
    def heard(self) -> float:
        """The share of attention that goes to sound."""
        return float(np.sum(self.sound))


class Attention(msgspec.Struct, frozen=True, kw_only=True):
    """Every head on one clip; `attention.json` is exactly this."""

    bundle: str
    clip: str
    layout: Layout
    heads: list[Head]


def write_attention(bundle: Bundle, clip: str, folder: Path) -> list[Path]:
    """Writes `attention.html` and `attention.json` into `folder`, each whole or not at all.

    Raises:
        WrongUseError: a bundle without an fp32 encoder that can be read here.
        InputError: a clip that cannot be read, or is shorter than the window.
        MissingExtraError: without OpenVINO, which reads ONNX graphs too, or matplotlib.
    """
    manifest = bundle.manifest
    seen = clips_from(clip, manifest.senses, steps=manifest.model.window)[-1]
    found = attention(bundle, seen)
    files = {
        "attention.json": msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n",
        "attention.html": html_from(found, seen, manifest).encode(),
    }
    return write_whole(folder, files)


def attention(bundle: Bundle, clip: Clip) -> Attention:
    """What every head of the encoder attends to in `clip`. Raises as `write_attention`."""
    manifest = bundle.manifest
    layout = layout_of(manifest)
    heads = []
    for layer, weights in weights_of(bundle, clip).items():
        for number, one in enumerate(weights):
            heads.append(_head(layer, number, one, layout))
    return Attention(bundle=manifest.name, clip=clip.name, layout=layout, heads=heads)


def weights_of(bundle: Bundle, clip: Clip) -> dict[str, FloatArray]:
    """Softmax weights `[heads, queries, keys]` by layer, as the fp32 encoder computes them."""
    manifest = bundle.manifest
    entry = manifest.precisions.get(REFERENCE)
    if entry is None or ENCODER not in entry.graphs:
        raise WrongUseError(
            f"{manifest.name} has no fp32 encoder to look into (it has "
            f"{', '.join(manifest.precisions)}); export with --precision fp32"
        )
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    graph = entry.graphs[ENCODER]
    core = ov.Core()
    model: Any = core.read_model(str(bundle.path(graph.path)))
    layers = {}
    for node in model.get_ordered_ops():
        named = re.fullmatch(r"(.+\.attn\w*)/Softmax(_\d+)?", node.get_friendly_name())
        if node.get_type_name() == "Softmax" and named:
            layers[named[1]] = model.add_outputs([node.output(0)])[0].get_any_name()
    if not layers:
        raise WrongUseError(f"{manifest.name}: its encoder has no softmax nodes to look into")
    given = {"video": clip.video, "audio": clip.audio}
    ports = {spec.name for spec in graph.inputs}
    inputs = {
        name: array[None] for name, array in given.items() if name in ports and array is not None
    }
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    outputs = core.compile_model(model, "CPU", options)(inputs)
    return {layer: outputs[name][0] for layer, name in layers.items()}


def layout_of(manifest: Manifest) -> Layout:
    """Where in a step which token lies."""
    video, model = manifest.senses.video, manifest.model
    patch = int(manifest.model_config.get("patch", 16))
    rows, columns = (video.height // patch, video.width // patch) if video else (0, 0)
    bands = model.tokens_per_step - rows * columns
    return Layout(steps=model.window, rows=rows, columns=columns, bands=bands)


def _head(layer: str, number: int, weights: FloatArray, layout: Layout) -> Head:
    per_step = layout.rows * layout.columns + layout.bands
    mean = weights[-per_step:].mean(axis=0).reshape(layout.steps, per_step)
    seen, heard = np.split(mean, [layout.rows * layout.columns], axis=1)
    return Head(
        layer=layer,
        head=number,
        space=seen.sum(axis=0).reshape(layout.rows, layout.columns).tolist(),
        time=mean.sum(axis=1).tolist(),
        sound=heard.T.tolist(),
    )


def html_from(found: Attention, clip: Clip, manifest: Manifest) -> str:
    """The page: what goes to sound and to the past in numbers, then a picture for each layer."""
    title = f"What {found.bundle} attends to in {found.clip}"
    body = [f"<h1>{escape(title)}</h1>", table(_shares(found))]
    video = manifest.senses.video
    frame = None
    if video and clip.video is not None:
        frame = frames_from_video(clip.video[:, -1:], video)[0]
    with drawing():
        for layer in dict.fromkeys(one.layer for one in found.heads):
            heads = [one for one in found.heads if one.layer == layer]
            body += [f"<h2>{escape(layer)}</h2>", _drawn(heads, frame)]
    return page(title, body)


def _shares(found: Attention) -> Grid:
    return Grid(
        title="From the newest step",
        note="the share of a head's attention that goes to sound, and to steps before the newest; "
        "where in the picture it is drawn to follows, over the newest frame (space), by step "
        "(time, the newest last) and by pitch and step (sound)",
        head=["layer", "head", "to sound", "to the past"],
        rows=[
            [one.layer, str(one.head), f"{one.heard:.1%}", f"{1 - one.time[-1]:.1%}"]
            for one in found.heads
        ],
    )


def _drawn(heads: Sequence[Head], frame: Frames | None) -> str:
    from matplotlib.figure import Figure

    kinds = [name for name in ("space", "time", "sound") if _has(heads[0], name)]
    size = (HEAD_INCHES * len(heads), HEAD_INCHES * len(kinds))
    figure: Any = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(kinds), len(heads), squeeze=False)
    for row, kind in enumerate(kinds):
        for axes, one in zip(grid[row], heads, strict=True):
            _draw(axes, kind, one, frame)
            if row == 0:
                axes.set_title(f"head {one.head}", fontsize=9)
        grid[row][0].set_ylabel(kind)
    return svg(figure)


def _has(head: Head, kind: str) -> bool:
    return bool(np.size(getattr(head, kind)))


def _draw(axes: Any, kind: str, head: Head, frame: Frames | None) -> None:  # noqa: ANN401
    axes.set_xticks([])
    axes.set_yticks([])
    if kind == "time":
        axes.bar(range(len(head.time)), head.time, color=COLOURS[0])
        axes.set_ylim(0, 1)
    elif kind == "sound":
        axes.imshow(head.sound, origin="lower", aspect="auto", cmap="viridis", vmin=0)
    else:
        over = np.array(head.space)
        if frame is not None:
            height, width = frame.shape[:2]
            edges = (0, width, height, 0)
            axes.imshow(frame, extent=edges)
            axes.imshow(over, extent=edges, cmap="magma", alpha=0.55, interpolation="bilinear")
