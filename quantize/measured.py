"""A graph written, loaded in the engine that will run it, and judged: shared with export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import Check, Graph, OutputParity
from jepa_edge.contract import CheckFailedError, Feed, Tensors, TensorSpec
from jepa_edge.devices.targets import Target
from jepa_edge.quantize.cache import Cache, digest_of, key_of
from jepa_edge.quantize.compile import hint_for, quantized, save_graph
from jepa_edge.quantize.mixed import analysed, check_from, graph_digest, recipe_from
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.quantize.sensitivity import Budget
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.memory import let_go
from jepa_edge.runtimes.parity import missed, parity_of
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check

MIXED = "mixed"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One graph in one precision.

    Attributes:
        name: of the graph.
        precision: the name it goes by.
        recipe: how it is made.
        graph: what `read_graph` gave.
        inputs: of the graph.
        outputs: of the graph.
        samples: inputs to calibrate on.
        feeds: calls to judge it by, with the reference's outputs.
        folder: inside the bundle, where to write it.
        budget: what ``mixed`` may lose.
    """

    name: str
    precision: str
    recipe: Recipe
    graph: Any
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    samples: Sequence[Tensors]
    feeds: Sequence[Feed]
    folder: str
    budget: Budget = Budget()


class FloorMissedError(CheckFailedError):
    """A graph that is not close enough to its fp32 source; `problems` are sentences."""

    def __init__(self, job: Job, problems: Sequence[str]) -> None:
        super().__init__(
            f"{job.name} in {job.precision} is not good enough: {'; '.join(problems)}. Nothing "
            "was written. Try --precision mixed, give more calibration clips, leave the precision "
            "out, or look at it with --keep-failing"
        )
        self.problems = problems


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """How close a file came, and what was tried on it."""

    parity: dict[str, OutputParity]
    checks: list[Check]


def write_measured(
    job: Job, target: Target, bundle: Path, *, keep_failing: bool, cache: Cache | None = None
) -> Graph:
    """Writes the job's graph into the folder `bundle`, and measures what was written.

    Both come from `cache` where an earlier, perhaps interrupted, run did the same.

    Raises `FloorMissedError` when it misses the floors of its precision, unless `keep_failing`.
    """
    cache = cache or Cache()
    checks = []
    whole = hint_for(target.engine, job.recipe)
    job = msgspec.structs.replace(job, recipe=job.recipe.of_graph(job.name))
    if job.precision == MIXED and job.recipe.activations == "int8":
        found = analysed(job.name, job.graph, job.samples, job.recipe, job.budget, cache)
        job = msgspec.structs.replace(job, recipe=recipe_from(found, job.recipe))
        checks.append(check_from(found))
    file, judged = made(job, target, bundle, cache)
    graph = _graph(job, bundle, file)
    own = hint_for(target.engine, job.recipe)
    graph = msgspec.structs.replace(
        graph,
        inference_precision=None if own == whole else own,
        parity=judged.parity,
        checks=judged.checks + checks,
    )
    problems = missed(graph.parity, job.precision)
    problems += [f"{c.name}: {c.detail}" for c in graph.checks if c.status == "failed"]
    if problems and not keep_failing:
        raise FloorMissedError(job, problems)
    return graph


def made(job: Job, target: Target, bundle: Path, cache: Cache) -> tuple[Path, Judged]:
    """The graph's file in the bundle, and how it was judged; what takes long is kept."""
    folder = bundle / job.folder
    folder.mkdir(exist_ok=True)

    def write(into: Path) -> Path:
        made = quantized(
            target.engine,
            job.graph,
            job.recipe,
            job.samples,
            attention_tokens=target.int8_attention_tokens,
        )
        return save_graph(target.engine, made, job.recipe, into / job.name)

    def judge(file: Path) -> Judged:
        let_go()
        parity = parity_on_host(job, _graph(job, bundle, file), file, target)
        return Judged(parity=parity, checks=_checks(target, job.recipe, file))

    if job.recipe.weights == "float":
        file = write(folder)
        return file, judge(file)
    key = _key(job, target)
    entry = cache.entry(key, lambda into: void(write(into)))
    for part in sorted(entry.iterdir()):
        shutil.copyfile(part, folder / part.name)
    suffix = ".xml" if target.engine == "openvino" else ".onnx"
    file = folder / f"{job.name}{suffix}"
    asked = key_of("judged", key, target.name, [(f.inputs, f.outputs) for f in job.feeds])
    return file, cache.value(asked, Judged, lambda: judge(file))


def _key(job: Job, target: Target) -> str:
    samples = digest_of(job.samples) if job.recipe.needs_clips else ""
    limits = f"{target.engine} {target.int8_attention_tokens}"
    return key_of("graph", job.name, graph_digest(job.graph), job.recipe, samples, limits)


def _graph(job: Job, bundle: Path, file: Path) -> Graph:
    path = file.relative_to(bundle).as_posix()
    return Graph(path=path, inputs=job.inputs, outputs=job.outputs)


def void(_result: object) -> None:
    """Forgets a result where none is wanted."""


def parity_on_host(job: Job, graph: Graph, file: Path, target: Target) -> dict[str, OutputParity]:
    """The file's parity in the engine that stands for the target's here."""
    if target.engine == "openvino" or job.recipe.floats != "bf16":
        hint = hint_for(target.engine, job.recipe)
        return parity_of(host_engine(target.engine, file, graph, hint), job.feeds)
    import onnx

    from jepa_edge.quantize.typed import emulated_bf16

    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        stand_in = Path(folder) / file.name
        onnx.save_model(emulated_bf16(job.graph, job.recipe.islands), str(stand_in))
        return parity_of(host_engine(target.engine, stand_in, graph, "f32"), job.feeds)


def _checks(target: Target, recipe: Recipe, file: Path) -> list[Check]:
    if target.engine != "tensorrt":
        return [Check(name=f"loaded and compared in {target.engine}", status="passed")]
    detail = "the same graph's numbers on the CPU; TensorRT's kernels may differ"
    if recipe.floats == "bf16":
        detail = "in fp32 rounded to bf16 after each operator: no CPU engine here runs bf16 ONNX"
    stand_in = Check(name="loaded and compared in ONNX Runtime", status="passed", detail=detail)
    board = Check(
        name=f"plan built and compared on {target.name}",
        status="not run here",
        detail="needs the board: plans do not travel; jepa-edge build does it there",
    )
    return [stand_in, tensorrt_check(file, target.compiles_as), board]
