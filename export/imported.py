"""An imported checkpoint → a bundle, the model held no longer than it is needed; resumable.

First everything that needs the model: graphs are traced to disk and the reference's answers are
kept. Then the model is let go, and each graph is compiled and judged from disk.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import Check, Graph, ModelFacts, new_bundle, write_manifest
from jepa_edge.contract import Feed, JepaEdgeError, Senses, Tensors, TensorSpec
from jepa_edge.devices.targets import Target
from jepa_edge.export.manifest import ExportConfig, Exported, Made, manifest_of
from jepa_edge.export.resume import Workplace
from jepa_edge.export.trace import release, write_onnx
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graph_source import GraphSource, run_source
from jepa_edge.model.graphs import graphs_of
from jepa_edge.quantize.calibration import check_real
from jepa_edge.quantize.compile import hint_for, read_graph
from jepa_edge.quantize.decided import Candidate, Situations, situations_for, with_decisions
from jepa_edge.quantize.measured import FloorMissedError, Job, write_measured
from jepa_edge.quantize.recipe import FLOATS, Recipe, recipe_for, with_float_norms
from jepa_edge.runtimes.feeds import Feeder
from jepa_edge.runtimes.memory import let_go

Progress = Callable[[str, int, int], None]
GOLDEN = "golden.npz"
ENCODER = "encoder"
HELDOUT_CLIPS, CALIBRATION_CLIPS = 5, 8
"""Few: a large model takes many seconds for each, and all are kept in memory."""


class _Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A traced graph, and what is known of it without the model."""

    name: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    feeds: list[Feed]
    samples: list[Tensors]


class _Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """All that is left of the model."""

    place: Workplace
    graphs: list[_Graph]
    made: Made
    asked: Situations | None
    out: Path
    warnings: list[str]


def export_imported(
    config: ExportConfig, chosen: Target, precisions: tuple[str, ...], progress: Progress
) -> Exported:
    """See `pipeline.export`. What is finished when this is stopped is not made again."""
    prepared = _prepare(config, chosen, precisions, progress)
    let_go()
    place = prepared.place
    try:
        found = _compiled(prepared, config, chosen, precisions, progress)
        found = {
            precision: with_decisions(
                Candidate(
                    precision=precision,
                    graphs=graphs,
                    folder=place.finished,
                    target=chosen,
                    recipe=_recipe(precision, chosen),
                ),
                prepared.asked,
                keep_failing=config.keep_failing,
            )
            for precision, graphs in found.items()
        }
        with new_bundle(prepared.out) as folder:
            place.give_finished(folder)
            golden: Tensors = {}
            for graph in prepared.graphs:
                golden |= dict(np.load(place.golden(graph.name)))
            np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
            made = msgspec.structs.replace(prepared.made, graphs=found)
            manifest = write_manifest(folder, manifest_of(config, chosen, prepared.out, made))
    except JepaEdgeError:
        place.discard()
        raise
    place.discard()
    peak = round(_peak_mib(), 1)
    return Exported(
        bundle=str(prepared.out),
        manifest=manifest,
        warnings=prepared.warnings + kept_in_float(found),
        peak_rss_mib=peak,
    )


def _prepare(
    config: ExportConfig, chosen: Target, precisions: tuple[str, ...], progress: Progress
) -> _Prepared:
    progress("reading the checkpoint", 0, 0)
    checkpoint = load_checkpoint(config.model, config.shape)
    model = checkpoint.model
    sources = graphs_of(model)
    out = config.out or Path("dist") / f"{model.config.name}-{chosen.name}.jepa"
    heldout = _clips(config.clips, model.config.senses, model.config.window, HELDOUT_CLIPS)
    calibration: list[Clip] = []
    needing = [p for p in precisions if recipe_for(p, chosen.engine).needs_clips]
    if needing:
        calibration = _clips(
            config.calibration, model.config.senses, model.config.window, CALIBRATION_CLIPS
        )
    key = checkpoint.sha256, msgspec.structs.replace(config, keep_failing=False), chosen
    place = Workplace(out, key)
    feeder = _feeder(model.facts(), model.config.senses, sources)
    graphs = []
    for number, source in enumerate(sources):
        pending = [p for p in precisions if place.graph(p, source.name) is None]
        progress(f"{source.name}: tracing", number, len(sources))
        for half in sorted({_is_half(p, chosen) for p in pending}):
            _trace(source, place, half=half)
        progress(f"{source.name}: the reference's answers", number, len(sources))
        feeds = feeder.feeds(source.name, heldout) if pending else []
        if feeds:
            np.savez(place.golden(source.name), **_golden(source.name, feeds[0]))
        samples = feeder.samples(source.name, calibration) if set(needing) & set(pending) else []
        graphs.append(
            _Graph(
                name=source.name,
                inputs=source.inputs,
                outputs=source.outputs,
                feeds=feeds,
                samples=samples,
            )
        )
    made = Made(
        facts=model.facts(),
        model_config=msgspec.to_builtins(model.config),
        senses=model.config.senses,
        sha256=checkpoint.sha256,
        calibration=[f"{clip.name} {clip.sha256[:16]}" for clip in calibration],
        heldout=[f"{clip.name} {clip.sha256[:16]}" for clip in heldout],
        hints={
            precision: hint_for(chosen.engine, _recipe(precision, chosen))
            for precision in precisions
        },
    )
    progress("what the reference decides", len(sources), len(sources))
    asked = situations_for(feeder.call, model.facts(), model.config.senses, config.clips)
    release(model.parameters())
    return _Prepared(
        place=place,
        graphs=graphs,
        made=made,
        asked=asked,
        out=out,
        warnings=check_real(calibration) if calibration else [],
    )


def _compiled(
    prepared: _Prepared,
    config: ExportConfig,
    chosen: Target,
    precisions: tuple[str, ...],
    progress: Progress,
) -> dict[str, dict[str, Graph]]:
    """Every graph in every precision; those that are done are only read back."""
    place = prepared.place
    found: dict[str, dict[str, Graph]] = {precision: {} for precision in precisions}
    total, done = len(prepared.graphs) * len(precisions), 0
    for graph in prepared.graphs:
        for precision in precisions:
            progress(f"{graph.name} {precision}", done, total)
            facts = place.graph(precision, graph.name)
            if facts is None:
                folder = precision if len(precisions) > 1 else ""
                job = _job(graph, precision, chosen, place, folder)
                facts = _written(job, chosen, place.finished, keep_failing=config.keep_failing)
                del job
                let_go()
                place.done(precision, graph.name, facts)
            found[precision][graph.name] = facts
            done += 1
    progress("writing the manifest", total, total)
    return found


def _written(job: Job, chosen: Target, folder: Path, *, keep_failing: bool) -> Graph:
    """The graph; a head whose quantized form misses its floor is kept in floating point instead.

    So one small predictor does not cost the whole export, and the manifest says what it is.
    """
    try:
        return write_measured(job, chosen, folder, keep_failing=keep_failing)
    except FloorMissedError as error:
        if job.name == ENCODER or job.recipe.weights == "float":
            raise
        kept = FLOATS[job.recipe.floats]
        whole = msgspec.structs.replace(job, precision=kept, recipe=_recipe(kept, chosen))
        graph = write_measured(whole, chosen, folder, keep_failing=False)
        why = Check(
            name=f"kept in {kept}",
            status="passed",
            detail=f"{job.precision} misses its floor: {'; '.join(error.problems)}",
        )
        return msgspec.structs.replace(graph, precision=kept, checks=[*graph.checks, why])


def kept_in_float(graphs: dict[str, dict[str, Graph]]) -> list[str]:
    """What to tell a person of graphs that are not in the precision they are listed under."""
    return [
        f"{name} is not {precision}: {graph.checks[-1].name}; {graph.checks[-1].detail}"
        for precision, found in graphs.items()
        for name, graph in found.items()
        if graph.precision
    ]


def _job(graph: _Graph, precision: str, chosen: Target, place: Workplace, folder: str) -> Job:
    file = _traced(place, graph.name, half=_is_half(precision, chosen))
    as_is = chosen.engine != "openvino" and precision in ("fp32", "fp16")
    return Job(
        name=graph.name,
        precision=precision,
        recipe=_recipe(precision, chosen),
        graph=file if as_is else read_graph(chosen.engine, file),
        inputs=graph.inputs,
        outputs=graph.outputs,
        samples=graph.samples,
        feeds=graph.feeds,
        folder=folder,
    )


def _recipe(precision: str, chosen: Target) -> Recipe:
    return with_float_norms(recipe_for(precision, chosen.engine))


def _is_half(precision: str, chosen: Target) -> bool:
    return precision == "fp16" and chosen.engine != "openvino"


def _trace(source: GraphSource, place: Workplace, *, half: bool) -> None:
    """Into a folder of its own, that is there only when it is complete."""
    file = _traced(place, source.name, half=half)
    if file.is_file():
        return
    part = file.parent.with_name(file.parent.name + ".new")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write_onnx(source, part / file.name, half=half)
    part.rename(file.parent)
    let_go()


def _traced(place: Workplace, name: str, *, half: bool) -> Path:
    return place.traced / f"{name}-{'f16' if half else 'f32'}" / f"{name}.onnx"


def _clips(uri: str, senses: Senses, window: int, limit: int) -> list[Clip]:
    return clips_from(uri, senses, steps=window, limit=limit, mirror=True)


def _feeder(facts: ModelFacts, senses: Senses, sources: Sequence[GraphSource]) -> Feeder:
    """Eager fp32, which encodes each clip once for all graphs that need its latents."""
    by_name = {source.name: source for source in sources}
    encoded: dict[bytes, Tensors] = {}

    def call(name: str, given: Tensors) -> Tensors:
        if name != ENCODER:
            return run_source(by_name[name], given)
        key = hashlib.sha256(given["video"].tobytes()).digest()
        if key not in encoded:
            encoded[key] = run_source(by_name[name], given)
        return encoded[key]

    return Feeder(
        inputs={source.name: source.inputs for source in sources},
        outputs={source.name: source.outputs for source in sources},
        facts=facts,
        senses=senses,
        call=call,
    )


def _golden(graph: str, feed: Feed) -> dict[str, Any]:
    """One real call of the graph, for the parity check on the board."""
    named = {f"{graph}/in/{name}": array for name, array in feed.inputs.items()}
    return named | {f"{graph}/out/{name}": a for name, a in feed.outputs.items()}


def _peak_mib() -> float:
    """The most memory that this process has held, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
