"""A bundle → the same bundle with another precision, without the source model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from jepa_edge.bundle import (
    MANIFEST,
    Bundle,
    Graph,
    Manifest,
    Precision,
    new_bundle,
    opened,
    write_manifest,
)
from jepa_edge.contract import PRECISIONS, WrongUseError
from jepa_edge.devices.targets import Target, target
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.quantize.calibration import CLIPS, STREAM_WINDOWS, check_real, refuse_random
from jepa_edge.quantize.compile import hint_for, read_graph
from jepa_edge.quantize.measured import Job, write_measured
from jepa_edge.quantize.recipe import Recipe, check_legal, read_recipe, recipe_for
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.feeds import Feeder

REFERENCE = "fp32"


class QuantizeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to add to which bundle, and the clips to calibrate on and to be judged by."""

    bundle: Path
    precision: str = "int8"
    recipe: Path | None = None
    calibration: str = "builtin:calibration"
    clips: str = "builtin:heldout"
    out: Path | None = None
    keep_failing: bool = False


class Quantized(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to warn of."""

    bundle: str
    manifest: Manifest
    warnings: list[str]


def quantize(config: QuantizeConfig, progress: Callable[[str, int, int], None]) -> Quantized:
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
        out = config.out or _beside(config.bundle, config.precision)
        with new_bundle(out) as folder:
            kept = _copied(source, config.precision, folder)
            added = _added(config, source, folder, recipe, clips, progress)
            manifest = msgspec.structs.replace(
                source.manifest,
                name=out.name.removesuffix(".jepa"),
                precisions=kept | {config.precision: added},
                default_precision=config.precision,
            )
            old = source.path(MANIFEST).read_bytes()
            manifest = write_manifest(folder, manifest, keep=old)
    return Quantized(bundle=str(out), manifest=manifest, warnings=warnings)


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


def _clips(config: QuantizeConfig, manifest: Manifest, recipe: Recipe) -> _Clips:
    senses, window = manifest.senses, manifest.model.window
    heldout = clips_from(config.clips, senses, steps=window * STREAM_WINDOWS)
    calibration: list[Clip] = []
    if recipe.needs_clips:
        calibration = clips_from(config.calibration, senses, steps=window + 2, limit=CLIPS)
    return _Clips(calibration=calibration, heldout=heldout)


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
        for graph_name, graph in entry.graphs.items():
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
            kept[name] = msgspec.structs.replace(entry, graphs=graphs)
    for file in set(manifest.files) - moved:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source.path(file), folder / file)
    return kept


def _added(
    config: QuantizeConfig,
    source: Bundle,
    folder: Path,
    recipe: Recipe,
    clips: _Clips,
    progress: Callable[[str, int, int], None],
) -> Precision:
    reference = source.manifest.precisions[REFERENCE].graphs
    feeder, chosen = _feeder(source), target(source.manifest.target)
    graphs: dict[str, Graph] = {}
    for done, (name, graph) in enumerate(reference.items()):
        progress(f"{name} {config.precision}", done, len(reference))
        samples = feeder.samples(name, clips.calibration)
        job = Job(
            name=name,
            precision=config.precision,
            recipe=recipe,
            graph=read_graph(chosen.engine, source.path(graph.path)),
            inputs=graph.inputs,
            outputs=graph.outputs,
            samples=samples,
            feeds=feeder.feeds(name, clips.heldout),
            folder=config.precision,
        )
        graphs[name] = write_measured(job, chosen, folder, keep_failing=config.keep_failing)
    return Precision(
        graphs=graphs,
        inference_precision=hint_for(chosen.engine, recipe),
        calibration=[f"{clip.name} {clip.sha256[:16]}" for clip in clips.calibration],
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
