"""Checkpoint → bundle, one step a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import (
    Graph,
    base_name,
    new_bundle,
    write_manifest,
)
from jepa_edge.contract import CacheType, Feed, Tensors, WrongUseError
from jepa_edge.devices.targets import Target, target
from jepa_edge.export.batched import batched, check_batch, rows_check
from jepa_edge.export.imported import export_imported
from jepa_edge.export.manifest import GOLDEN, ExportConfig, Exported, Made, manifest_of
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.model.checkpoint import AnyModel, Checkpoint, is_foreign, load_checkpoint
from jepa_edge.model.graph_source import GraphSource, run_source
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.calibration import (
    STREAM_WINDOWS,
    calibration_clips,
    check_real,
    refuse_random,
)
from jepa_edge.quantize.compile import hint_for, read_graph
from jepa_edge.quantize.decided import Candidate, situations_for, with_decisions
from jepa_edge.quantize.measured import Job, write_measured
from jepa_edge.quantize.recipe import Recipe, check_legal, recipe_for, with_float_norms
from jepa_edge.runtimes.feeds import Feeder

__all__ = ["ExportConfig", "Exported", "export"]


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that a single graph's export needs."""

    checkpoint: Checkpoint
    target: Target
    recipes: dict[str, Recipe]
    calibration: list[Clip]
    heldout: list[Clip]
    cache: CacheType | None
    batch: int
    clips: str
    keep_failing: bool

    @property
    def needs_clips(self) -> bool:
        """Whether any precision measures ranges."""
        return any(recipe.needs_clips for recipe in self.recipes.values())


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
    if is_foreign(config.model):
        if config.batch:
            raise WrongUseError("--batch: graphs of imported models compute one clip at a time")
        return export_imported(config, chosen, precisions, progress)
    check_batch(config.batch, chosen)
    checkpoint = load_checkpoint(config.model, config.shape)
    assert isinstance(checkpoint.model, JEPA)
    out = config.out or Path("dist") / f"{checkpoint.model.config.name}-{chosen.name}.jepa"
    job = _job(config, checkpoint, chosen, precisions)
    warnings = check_real(job.calibration) if job.needs_clips else []
    with new_bundle(out) as folder:
        made, golden = _graphs(job, folder, progress)
        np.savez_compressed(folder / GOLDEN, allow_pickle=False, **golden)
        manifest = write_manifest(folder, manifest_of(config, chosen, out, made))
    return Exported(bundle=str(out), manifest=manifest, warnings=warnings)


def _graphs(
    job: _Job, folder: Path, progress: Callable[[str, int, int], None]
) -> tuple[Made, Tensors]:
    """Every graph in every precision, and a real call of each to be checked on the board."""
    sources = graphs_of(job.checkpoint.model)
    feeder = _feeder(job.checkpoint.model, sources)
    sources += batched(sources, job.batch)
    total, done = len(sources) * len(job.recipes), 0
    made, golden = _nothing_yet(job), Tensors()
    for source in sources:
        progress(f"{source.name}: tracing", done, total)
        base = base_name(source.name)
        feeds = feeder.feeds(base, job.heldout)
        golden |= _golden(base, feeds[0])
        for way in _ways(job, source, feeds, "{}" if len(job.recipes) > 1 else ""):
            progress(f"{source.name} {way.precision}", done, total)
            graph = write_measured(way, job.target, folder, keep_failing=job.keep_failing)
            if base == source.name:
                made.graphs[way.precision][base] = graph
            else:
                graph = _with_rows_check(graph, way, feeder, job, folder)
                made.batched[way.precision][source.name] = graph
            done += 1
    progress("decisions", total, total)
    made = msgspec.structs.replace(made, graphs=_decided(job, feeder, made, folder))
    progress("writing the manifest", total, total)
    return made, golden


def _precisions(asked: tuple[str, ...], chosen: Target) -> tuple[str, ...]:
    for precision in asked:
        check_legal(recipe_for(precision, chosen.engine), precision, chosen)
    return asked or tuple(chosen.default_precisions)


def _feeder(model: AnyModel, sources: list[GraphSource]) -> Feeder:
    """Eager fp32: what every graph of every precision is compared with."""
    by_name = {source.name: source for source in sources}
    return Feeder(
        inputs={name: source.inputs for name, source in by_name.items()},
        outputs={name: source.outputs for name, source in by_name.items()},
        facts=model.facts(),
        senses=model.config.senses,
        call=lambda name, given: run_source(by_name[name], given),
    )


def _job(
    config: ExportConfig, checkpoint: Checkpoint, chosen: Target, precisions: tuple[str, ...]
) -> _Job:
    spec = checkpoint.model.config
    steps = spec.window * STREAM_WINDOWS
    heldout = clips_from(config.clips, spec.senses, steps=steps)
    calibration, _ = calibration_clips(config.calibration, spec.senses, steps=spec.window + 2)
    return _Job(
        checkpoint=checkpoint,
        target=chosen,
        recipes={name: recipe_for(name, chosen.engine) for name in precisions},
        calibration=calibration,
        heldout=heldout,
        cache=config.cache,
        batch=config.batch,
        clips=config.clips,
        keep_failing=config.keep_failing,
    )


def _ways(job: _Job, source: GraphSource, feeds: list[Feed], folder: str) -> Iterator[Job]:
    """`source` in every precision, traced once for each type of its memory."""
    engine, model, base = job.target.engine, job.checkpoint.model, base_name(source.name)
    read: dict[CacheType, Any] = {}
    for precision, recipe in job.recipes.items():
        cache = job.cache or _cache_for(precision)
        sources = {found.name: found for found in graphs_of(model, cache)}
        many = {found.name: found for found in batched(sources.values(), job.batch)}
        own = (sources | many)[source.name]
        kind: CacheType = cache if base == "step" else "float32"
        if kind not in read:
            read[kind] = read_graph(engine, onnx_from(own))
        samples: list[Tensors] = []
        if recipe.needs_clips:
            feeder = _feeder(model, list(sources.values()))
            samples = feeder.samples(base, job.calibration)
        yield Job(
            name=source.name,
            precision=precision,
            recipe=with_float_norms(recipe) if own.float_norms else recipe,
            graph=read[kind],
            inputs=own.inputs,
            outputs=own.outputs,
            samples=samples,
            feeds=feeds,
            folder=folder.format(precision),
        )


def _cache_for(precision: str) -> CacheType:
    """float16 holds keys and values as well as any of the cheaper precisions computes them."""
    return "float32" if precision == "fp32" else "float16"


def _decided(job: _Job, feeder: Feeder, made: Made, folder: Path) -> dict[str, dict[str, Graph]]:
    """The graphs of every precision, judged by what a planner would do with them."""
    asked = situations_for(feeder.call, feeder.facts, feeder.senses, job.clips)
    return {
        precision: with_decisions(
            Candidate(
                precision=precision,
                graphs=found,
                folder=folder,
                target=job.target,
                recipe=job.recipes[precision],
            ),
            asked,
            keep_failing=job.keep_failing,
        )
        for precision, found in made.graphs.items()
    }


def _golden(graph: str, feed: Feed) -> Tensors:
    """One real call of the graph, for the parity check on the board."""
    named = {f"{graph}/in/{name}": array for name, array in feed.inputs.items()}
    return named | {f"{graph}/out/{name}": a for name, a in feed.outputs.items()}


def _with_rows_check(graph: Graph, way: Job, feeder: Feeder, job: _Job, folder: Path) -> Graph:
    """`graph`, which takes any number of robots, and whether each gets what it gets alone."""
    calls = feeder.samples(base_name(way.name), job.heldout[: job.batch])
    kinds = {spec.name: spec.dtype for spec in way.inputs}
    given = [{name: call[name].astype(kinds[name]) for name in kinds} for call in calls[::7]]
    hint = graph.inference_precision or hint_for(job.target.engine, way.recipe)
    engine = job.target.engine, hint
    check = rows_check(graph, folder / graph.path, given, engine, job.batch)
    return msgspec.structs.replace(graph, checks=[*graph.checks, check])


def _nothing_yet(job: _Job) -> Made:
    """What is known before the first graph is made."""
    model = job.checkpoint.model
    return Made(
        facts=model.facts(),
        model_config=msgspec.to_builtins(model.config),
        senses=model.config.senses,
        sha256=job.checkpoint.sha256,
        calibration=[f"{clip.name} {clip.sha256[:16]}" for clip in job.calibration],
        heldout=[f"{clip.name} {clip.sha256[:16]}" for clip in job.heldout],
        hints={name: hint_for(job.target.engine, recipe) for name, recipe in job.recipes.items()},
        graphs={name: {} for name in job.recipes},
        batched={name: {} for name in job.recipes},
    )
