"""A bundle → the same bundle with another precision, without the source model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import (
    MANIFEST,
    Bundle,
    Graph,
    Manifest,
    Precision,
    base_name,
    new_bundle,
    opened,
    write_manifest,
)
from jepa_edge.contract import PRECISIONS, MissingExtraError, WrongUseError
from jepa_edge.devices.targets import Target, target
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.quantize.cache import Cache, key_of
from jepa_edge.quantize.calibration import (
    FEW_CLIPS,
    STREAM_WINDOWS,
    Coverage,
    calibration_clips,
    check_real,
    coverage,
    refuse_random,
)
from jepa_edge.quantize.compile import hint_for, read_graph
from jepa_edge.quantize.decided import Candidate, situations_for, with_decisions
from jepa_edge.quantize.measured import MIXED, Job, write_measured
from jepa_edge.quantize.mixed import analysed
from jepa_edge.quantize.recipe import Recipe, check_legal, read_recipe, recipe_for
from jepa_edge.quantize.sensitivity import Budget, Sensitivity
from jepa_edge.quantize.trades import Trades, trades_of
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.feeds import Feeder

REFERENCE = "fp32"
LESSONS = 256
"""Clips that a repair is taught with, at most: more than ranges are measured on."""
Progress = Callable[[str, int, int], None]


class QuantizeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to add to which bundle, and the clips to calibrate on and to be judged by."""

    bundle: Path
    precision: str = "int8"
    recipe: Path | None = None
    calibration: str = "builtin:calibration"
    clips: str = "builtin:heldout"
    out: Path | None = None
    keep_failing: bool = False
    max_drop: float = Budget().max_drop
    report: Path | None = None
    is_timed: bool = False
    """Whether the best trades of every analysed graph are made and timed."""
    repair_steps: int = 0
    model: str = ""


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to warn of."""

    bundle: str
    manifest: Manifest
    warnings: list[str]
    sensitivities: list[Sensitivity] = []
    trades: list[Trades] = []
    coverage: Coverage | None = None
    resumed: int = 0
    """Parts that an earlier run had finished."""


def quantize(config: QuantizeConfig, progress: Progress) -> Quantized:
    """Adds one precision, made from the bundle's own fp32 graphs; `progress` as in export.

    Raises:
        WrongUseError: a precision that does not exist, that the target refuses, or that cannot be
            made from fp32 graphs; a bundle without them.
        InputError: a bundle or clips that cannot be read.
        CheckFailedError: a graph misses the floors of its precision; nothing is written.
    """
    refuse_random(config.calibration)
    with opened(config.bundle) as source:
        chosen = target(source.manifest.target)
        recipe = _recipe(config, source.manifest, chosen)
        clips = _clips(config, source.manifest, recipe)
        warnings = check_real(clips.calibration) if clips.calibration else []
        warnings += clips.coverage.warnings if clips.coverage else []
        work = _Work(config=config, source=source, recipe=recipe, clips=clips, cache=Cache())
        out = config.out or _beside(config.bundle, config.precision)
        with new_bundle(out) as folder:
            kept = _copied(source, config.precision, folder)
            added = _added(work, folder, progress)
            manifest = msgspec.structs.replace(
                source.manifest,
                name=out.name.removesuffix(".jepa"),
                precisions=kept | {config.precision: added},
                default_precision=config.precision,
            )
            old = source.path(MANIFEST).read_bytes()
            manifest = write_manifest(folder, manifest, keep=old)
        warnings += _effect_of_few(work)
        found = _sensitivities(work, progress)
        done = Quantized(
            bundle=str(out),
            manifest=manifest,
            warnings=warnings,
            sensitivities=found,
            trades=_trades(work, found, progress) if config.is_timed else [],
            coverage=clips.coverage,
            resumed=work.cache.hits,
        )
    if config.report:
        _report(done, config.report)
    return done


def _recipe(config: QuantizeConfig, manifest: Manifest, chosen: Target) -> Recipe:
    """What to do, after every check that can be made before anything is read."""
    precision = config.precision
    made = [name for name in PRECISIONS if name != REFERENCE]
    if precision not in made:
        raise WrongUseError(f"quantize makes {', '.join(made)}; {precision!r} is none of them")
    recipe = recipe_for(precision, chosen.engine)
    if config.recipe:
        recipe = read_recipe(config.recipe, chosen.engine)
    check_legal(recipe, precision, chosen)
    if REFERENCE not in manifest.precisions:
        raise WrongUseError(
            f"{manifest.name} holds no fp32 graphs to start from (it has "
            f"{', '.join(manifest.precisions)}); export it again: jepa-edge export "
            f"--model {manifest.provenance.source} --target {chosen.name} --precision "
            f"fp32,{precision}"
        )
    return recipe


class _Clips(msgspec.Struct, frozen=True, kw_only=True):
    calibration: list[Clip]
    heldout: list[Clip]
    coverage: Coverage | None


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """All that the graphs' quantization shares."""

    config: QuantizeConfig
    source: Bundle
    recipe: Recipe
    clips: _Clips
    cache: Cache

    @property
    def is_analysed(self) -> bool:
        """Whether layers are looked at one by one."""
        wanted = self.config.report is not None or self.config.precision == MIXED
        return wanted and self.recipe.activations == "int8"


def _clips(config: QuantizeConfig, manifest: Manifest, recipe: Recipe) -> _Clips:
    senses, window = manifest.senses, manifest.model.window
    heldout = clips_from(config.clips, senses, steps=window * STREAM_WINDOWS)
    if not recipe.needs_clips:
        return _Clips(calibration=[], heldout=heldout, coverage=None)
    calibration, pool = calibration_clips(config.calibration, senses, steps=window + 2)
    return _Clips(
        calibration=calibration, heldout=heldout, coverage=coverage(calibration, heldout, pool)
    )


def _beside(bundle: Path, precision: str) -> Path:
    stem = bundle.name.removesuffix(".tar.zst").removesuffix(".jepa")
    return bundle.with_name(f"{stem}-{precision}.jepa")


def _copied(source: Bundle, precision: str, folder: Path) -> dict[str, Precision]:
    """The precisions that stay, each in its folder, and what belongs to none of them."""
    manifest, kept = source.manifest, {}
    moved: set[str] = set()
    for name, entry in manifest.precisions.items():
        (folder / name).mkdir()
        graphs: dict[str, Graph] = {}
        for graph_name, graph in (entry.graphs | entry.batched).items():
            stem = graph.path.rpartition(".")[0]
            parts = [file for file in manifest.files if file.startswith(f"{stem}.")]
            moved.update(parts)
            if name == precision:
                continue
            for part in parts:
                shutil.copy2(source.path(part), folder / name / Path(part).name)
            graphs[graph_name] = msgspec.structs.replace(
                graph, path=f"{name}/{Path(graph.path).name}"
            )
        if name != precision:
            kept[name] = msgspec.structs.replace(
                entry,
                graphs={n: graph for n, graph in graphs.items() if n in entry.graphs},
                batched={n: graph for n, graph in graphs.items() if n in entry.batched},
            )
    for file in set(manifest.files) - moved:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source.path(file), folder / file)
    return kept


def _added(work: _Work, folder: Path, progress: Progress) -> Precision:
    precision, manifest = work.config.precision, work.source.manifest
    entry, chosen = manifest.precisions[REFERENCE], target(manifest.target)
    reference, graphs = entry.graphs | entry.batched, dict[str, Graph]()
    mend = _mender(work, progress)
    for done, name in enumerate(reference):
        progress(f"{name} {precision}", done, len(reference))
        job = _job(work, name)
        if work.recipe.of_graph(name).weights != "float":
            job = msgspec.structs.replace(job, graph=mend(job.graph))
        graphs[name] = write_measured(
            job, chosen, folder, keep_failing=work.config.keep_failing, cache=work.cache
        )
    made = Candidate(
        precision=precision, graphs=graphs, folder=folder, target=chosen, recipe=work.recipe
    )
    progress(f"decisions in {precision}", len(reference), len(reference))
    asked = situations_for(
        _feeder(work.source).call, manifest.model, manifest.senses, work.config.clips
    )
    graphs = with_decisions(made, asked, keep_failing=work.config.keep_failing)
    return Precision(
        graphs={name: graph for name, graph in graphs.items() if name in entry.graphs},
        batched={name: graph for name, graph in graphs.items() if name in entry.batched},
        inference_precision=hint_for(chosen.engine, work.recipe),
        calibration=[f"{clip.name} {clip.sha256[:16]}" for clip in work.clips.calibration],
    )


def _mender(work: _Work, progress: Progress) -> Callable[[Any], Any]:
    """What puts repaired weights into a graph; leaves it as it is when nothing is repaired."""
    config, manifest = work.config, work.source.manifest
    if not config.repair_steps:
        return lambda graph: graph
    if work.recipe.weights not in ("int8", "int4"):
        raise WrongUseError(f"nothing to repair: {config.precision} rounds no weights")
    try:
        from jepa_edge.model.checkpoint import load_checkpoint
        from jepa_edge.model.jepa import JEPA
        from jepa_edge.quantize.repair import Lesson, repaired_graphs, with_matrices
    except ImportError as error:
        raise MissingExtraError("PyTorch", "train") from error
    checkpoint = load_checkpoint(config.model or manifest.provenance.source)
    if checkpoint.sha256 != manifest.provenance.source_sha256:
        raise WrongUseError(
            f"{checkpoint.source} is not the checkpoint that {manifest.name} was made from; name "
            "it with --model"
        )
    model = checkpoint.model
    if not isinstance(model, JEPA):
        raise WrongUseError("imported checkpoints cannot be repaired yet; try --precision mixed")
    names = manifest.precisions[REFERENCE].graphs
    graphs = {name: _job(work, name).graph for name in names}
    clips, lesson = (
        _lessons(work),
        Lesson(recipe=work.recipe, engine=manifest.engine, steps=config.repair_steps),
    )

    def learn(folder: Path) -> None:
        found = repaired_graphs(model, graphs, lesson, clips, progress)
        np.savez(folder / "weights.npz", allow_pickle=False, **found)

    asked = key_of("repair", checkpoint.sha256, lesson, [clip.sha256 for clip in clips])
    with np.load(work.cache.entry(asked, learn) / "weights.npz") as arrays:
        new = {name: arrays[name] for name in arrays}
    return lambda graph: with_matrices(graph, model, new)


def _lessons(work: _Work) -> list[Clip]:
    """Clips to be taught with."""
    manifest = work.source.manifest
    steps = manifest.model.window + 2
    return clips_from(work.config.calibration, manifest.senses, steps=steps, limit=LESSONS)


def _job(work: _Work, name: str, *, share: int = 1) -> Job:
    """The job of one graph, calibrated on one of `share` clips."""
    manifest, feeder = work.source.manifest, _feeder(work.source)
    entry, base = manifest.precisions[REFERENCE], base_name(name)
    graph = (entry.graphs | entry.batched)[name]
    calibration = work.clips.calibration[::share]
    return Job(
        name=name,
        precision=work.config.precision,
        recipe=work.recipe,
        graph=read_graph(manifest.engine, work.source.path(graph.path)),
        inputs=graph.inputs,
        outputs=graph.outputs,
        samples=feeder.samples(base, calibration),
        feeds=feeder.feeds(base, work.clips.heldout),
        folder=work.config.precision,
        budget=Budget(max_drop=work.config.max_drop),
    )


def _sensitivities(work: _Work, progress: Progress) -> list[Sensitivity]:
    """Of every graph, when a report or ``mixed`` asks for them."""
    if not work.is_analysed:
        return []
    names = [
        name
        for name in work.source.manifest.precisions[REFERENCE].graphs
        if name not in work.recipe.float_graphs
    ]
    found = []
    for done, name in enumerate(names):
        progress(f"{name}: layer by layer", done, len(names))
        job = _job(work, name)
        found.append(analysed(name, job.graph, job.samples, job.recipe, job.budget, work.cache))
    return found


def _trades(work: _Work, found: list[Sensitivity], progress: Progress) -> list[Trades]:
    """How fast and how exact the best choices of layers really are."""
    chosen, timed = target(work.source.manifest.target), list[Trades]()
    for done, one in enumerate(found):
        job = _job(work, one.graph)

        def tell(label: str, at: int = done, graph: str = one.graph) -> None:
            progress(f"{graph}: {label}", at, len(found))

        if (trades := trades_of(job, one, chosen, work.cache, tell)) is not None:
            timed.append(trades)
    return timed


def _effect_of_few(work: _Work) -> list[str]:
    """With little to calibrate on: what half as much would have done, as a warning."""
    calibration = work.clips.calibration
    if not 2 <= len(calibration) < FEW_CLIPS or work.recipe.activations == "float":
        return []
    chosen = target(work.source.manifest.target)
    name = next(iter(work.source.manifest.precisions[REFERENCE].graphs))
    worst = []
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        for share in (1, 2):
            job = _job(work, name, share=share)
            graph = write_measured(job, chosen, Path(folder), keep_failing=True, cache=work.cache)
            worst.append(min(parity.cosine_p1 for parity in graph.parity.values()))
    moved = abs(worst[0] - worst[1])
    told = (
        f"{len(calibration)} clips give the {name} a p1 cosine of {worst[0]:.5f}, half of them "
        f"{worst[1]:.5f}: ranges that move by {moved:.5f} have not settled"
    )
    return [told]


def _report(done: Quantized, folder: Path) -> None:
    from jepa_edge.quantize.report import Findings, write_findings

    write_findings(
        Findings(
            manifest=done.manifest,
            sensitivities=done.sensitivities,
            trades=done.trades,
            coverage=done.coverage,
            warnings=done.warnings,
        ),
        folder,
    )


def _feeder(source: Bundle) -> Feeder:
    """The bundle's own fp32 graphs, in the engine that judges them here."""
    manifest = source.manifest
    graphs = manifest.precisions[REFERENCE].graphs
    engines = {
        name: host_engine(
            manifest.engine,
            source.path(graph.path),
            graph,
            "f32",
        )
        for name, graph in graphs.items()
    }
    return Feeder(
        inputs={name: graph.inputs for name, graph in graphs.items()},
        outputs={name: graph.outputs for name, graph in graphs.items()},
        facts=manifest.model,
        senses=manifest.senses,
        call=lambda name, given: engines[name].run(given),
    )
