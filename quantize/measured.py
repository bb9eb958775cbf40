"""A graph written, loaded in the engine that will run it, and judged: shared with export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import Check, Graph, Hint
from jepa_edge.contract import CheckFailedError, Feed, Tensors, TensorSpec
from jepa_edge.devices.targets import Target
from jepa_edge.quantize.compile import hint_for, write_graph
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.parity import missed, parity_of
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One graph in one precision.

    Attributes:
        name: of the graph.
        precision: to write it in.
        graph: what `read_graph` gave.
        inputs: of the graph.
        outputs: of the graph.
        samples: inputs to calibrate on.
        feeds: calls to judge it by, with the reference's outputs.
        folder: inside the bundle, where to write it.
        hint: what floats are computed in, if not in what `hint_for` says.
    """

    name: str
    precision: str
    graph: Any
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    samples: Sequence[Tensors]
    feeds: Sequence[Feed]
    folder: str
    hint: Hint | None = None


def write_measured(job: Job, target: Target, bundle: Path, *, keep_failing: bool) -> Graph:
    """Writes the job's graph into the folder `bundle`, and measures what was written.

    Raises `CheckFailedError` when it misses the floors of its precision, unless `keep_failing`.
    """
    stem = bundle / job.folder / job.name
    stem.parent.mkdir(exist_ok=True)
    file = write_graph(target.engine, job.graph, job.precision, job.samples, stem)
    graph = Graph(path=file.relative_to(bundle).as_posix(), inputs=job.inputs, outputs=job.outputs)
    engine = host_engine(
        target.engine, file, graph, job.hint or hint_for(target.engine, job.precision)
    )
    parity = parity_of(engine, job.feeds)
    graph = msgspec.structs.replace(graph, parity=parity, checks=_checks(target, file))
    problems = missed(graph.parity, job.precision)
    problems += [f"{c.name}: {c.detail}" for c in graph.checks if c.status == "failed"]
    if problems and not keep_failing:
        raise CheckFailedError(
            f"{job.name} in {job.precision} is not good enough: {'; '.join(problems)}. Nothing "
            "was written. Give more calibration clips, leave the precision out, or look at it "
            "with --keep-failing"
        )
    return graph


def _checks(target: Target, file: Path) -> list[Check]:
    if target.engine != "tensorrt":
        return [Check(name=f"loaded and compared in {target.engine}", status="passed")]
    stand_in = Check(
        name="loaded and compared in ONNX Runtime",
        status="passed",
        detail="the same graph's numbers on the CPU; TensorRT's kernels may differ",
    )
    board = Check(
        name=f"plan built and compared on {target.name}",
        status="not run here",
        detail="needs the board: plans do not travel",
    )
    return [stand_in, tensorrt_check(file), board]
