"""Checkpoint → bundle, one step a line."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import (
    Check,
    Graph,
    Manifest,
    Precision,
    Provenance,
    new_bundle,
    write_manifest,
)
from jepa_edge.contract import PRECISIONS, CheckFailedError, WrongUseError
from jepa_edge.devices.targets import Target, target
from jepa_edge.export.compile_onnx import tensorrt_check, write_onnx
from jepa_edge.export.compile_openvino import HINTS, write_openvino
from jepa_edge.export.parity import missed, parity_of
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.model.checkpoint import Checkpoint, load_checkpoint
from jepa_edge.model.feeds import Feed, feeds_of
from jepa_edge.model.graphs import GraphSource, graphs_of
from jepa_edge.quantize.calibration import check_real, refuse_random
from jepa_edge.runtimes.engine import Engine, Tensors
from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine
from jepa_edge.runtimes.engine_openvino import OpenVinoEngine

STREAM_WINDOWS = 3
"""Streams are compared over this many windows: until the cache has long been full."""

CALIBRATION_CLIPS = 16
"""Spread over what was given; a stream makes ten calls of each."""

GOLDEN = "golden.npz"
VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy")


class ExportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to export, for what, and the clips to calibrate on and to be judged by."""

    model: str = "builtin:nano"
    target: str = "x86-cpu"
    precisions: tuple[str, ...] = ()
    out: Path | None = None
    calibration: str = "builtin:calibration"
    clips: str = "builtin:heldout"
    keep_failing: bool = False


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to warn of."""

    bundle: str
    manifest: Manifest
    warnings: list[str]


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that a single graph's export needs."""

    checkpoint: Checkpoint
    target: Target
    calibration: list[Clip]
    heldout: list[Clip]


def export(config: ExportConfig, progress: Callable[[str, int, int], None]) -> Exported:
    """Exports, measures, and writes the bundle; `progress` gets (what, done, total).

    Raises:
        WrongUseError: a model, target or precision that does not exist or does not go together.
        InputError: clips or checkpoint that cannot be read.
        CheckFailedError: a graph misses the floors of its precision; nothing is written.
    """
    chosen = target(config.target)
    precisions = _precisions(config.precisions, chosen)
    refuse_random(config.calibration)
    checkpoint = load_checkpoint(config.model)
    out = config.out or Path("dist") / f"{checkpoint.model.config.name}-{chosen.name}.jepa"
    job = _job(config, checkpoint, chosen)
    warnings = check_real(job.calibration) if "int8" in precisions else []
    sources = graphs_of(checkpoint.model)
    total, done = len(sources) * len(precisions), 0
    with new_bundle(out) as folder:
        graphs: dict[str, dict[str, Graph]] = {name: {} for name in precisions}
        golden: Tensors = {}
        for source in sources:
            feeds = feeds_of(checkpoint.model, source, job.heldout)
            golden |= _golden(source, feeds[0])
            for precision in precisions:
                progress(f"{source.name} {precision}", done, total)
                inside = f"{precision}/" if len(precisions) > 1 else ""
                graph = _write_graph(job, source, precision, folder, inside, feeds)
                _judge(graph, source.name, precision, config.keep_failing)
                graphs[precision][source.name] = graph
                done += 1
        progress("writing the manifest", total, total)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
        manifest = write_manifest(folder, _manifest(job, config, out, graphs))
    return Exported(bundle=str(out), manifest=manifest, warnings=warnings)


def _precisions(asked: tuple[str, ...], chosen: Target) -> tuple[str, ...]:
    for precision in asked:
        if precision not in PRECISIONS and precision not in chosen.refused:
            raise WrongUseError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
        chosen.legal(precision)
    return asked or tuple(chosen.default_precisions)


def _job(config: ExportConfig, checkpoint: Checkpoint, chosen: Target) -> _Job:
    spec = checkpoint.model.config
    steps = spec.window * STREAM_WINDOWS
    heldout = clips_from(config.clips, spec.senses, steps=steps)
    calibration = clips_from(
        config.calibration, spec.senses, steps=spec.window + 2, limit=CALIBRATION_CLIPS
    )
    return _Job(checkpoint=checkpoint, target=chosen, calibration=calibration, heldout=heldout)


def _write_graph(
    job: _Job, source: GraphSource, precision: str, folder: Path, inside: str, feeds: list[Feed]
) -> Graph:
    """Traces, compiles and measures one graph in one precision."""
    model = job.checkpoint.model
    openvino = job.target.engine == "openvino"
    traced = onnx_from(source, half=precision == "fp16" and not openvino)
    samples = []
    if precision == "int8":
        samples = [feed.inputs for feed in feeds_of(model, source, job.calibration)]
    path = folder / inside / source.name
    path.parent.mkdir(exist_ok=True)
    write = write_openvino if openvino else write_onnx
    file = write(traced, precision, samples, path)
    graph = Graph(
        path=file.relative_to(folder).as_posix(), inputs=source.inputs, outputs=source.outputs
    )
    engine = _engine(job.target, file, graph, precision)
    return msgspec.structs.replace(
        graph, parity=parity_of(engine, feeds), checks=_checks(job.target, file)
    )


def _engine(chosen: Target, file: Path, graph: Graph, precision: str) -> Engine:
    """The real engine of the target; for TensorRT, ONNX Runtime on the very same graph."""
    if chosen.engine == "openvino":
        return OpenVinoEngine(file, graph, HINTS[precision], 0)
    return OnnxRuntimeEngine(file, graph, 0)


def _checks(chosen: Target, file: Path) -> list[Check]:
    if chosen.engine != "tensorrt":
        return [Check(name=f"loaded and compared in {chosen.engine}", status="passed")]
    stand_in = Check(
        name="loaded and compared in ONNX Runtime",
        status="passed",
        detail="the same graph's numbers on the CPU; TensorRT's kernels may differ",
    )
    board = Check(
        name=f"plan built and compared on {chosen.name}",
        status="not run here",
        detail="needs the board: plans do not travel",
    )
    return [stand_in, tensorrt_check(file), board]


def _judge(graph: Graph, name: str, precision: str, keep_failing: bool) -> None:
    problems = missed(graph.parity, precision)
    problems += [f"{c.name}: {c.detail}" for c in graph.checks if c.status == "failed"]
    if problems and not keep_failing:
        raise CheckFailedError(
            f"{name} in {precision} is not good enough: {'; '.join(problems)}. Nothing was "
            "written. Give more calibration clips, leave the precision out, or look at it with "
            "--keep-failing"
        )


def _golden(source: GraphSource, feed: Feed) -> Tensors:
    """One real call of the graph, for the parity check on the board."""
    named = {f"{source.name}/in/{name}": array for name, array in feed.inputs.items()}
    return named | {f"{source.name}/out/{name}": a for name, a in feed.outputs.items()}


def _manifest(
    job: _Job, config: ExportConfig, out: Path, graphs: dict[str, dict[str, Graph]]
) -> Manifest:
    model = job.checkpoint.model
    calibrated = [f"{clip.name} {clip.sha256[:16]}" for clip in job.calibration]
    return Manifest(
        name=out.name.removesuffix(".jepa"),
        target=job.target.name,
        engine=job.target.engine,
        model=model.facts(),
        model_config=msgspec.to_builtins(model.config),
        senses=model.config.senses,
        precisions={
            name: Precision(
                graphs=found,
                inference_precision=HINTS[name] if job.target.engine == "openvino" else "f32",  # type: ignore[arg-type]
                calibration=calibrated if name == "int8" else [],
            )
            for name, found in graphs.items()
        },
        default_precision="int8" if "int8" in graphs else next(iter(graphs)),
        provenance=Provenance(
            source=config.model,
            source_sha256=job.checkpoint.sha256,
            versions={name: importlib.metadata.version(name) for name in VERSIONS}
            | {"python": platform.python_version()},
            parity_clips=[f"{clip.name} {clip.sha256[:16]}" for clip in job.heldout],
        ),
        golden=GOLDEN,
    )
