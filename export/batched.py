"""Graphs for several robots at once, which only a server uses: `jepa-edge export --batch`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Check, EngineName, Graph, Hint
from jepa_edge.contract import CheckFailedError, Tensors, TensorSpec, WrongUseError
from jepa_edge.devices.targets import Target
from jepa_edge.model.graph_source import GraphSource
from jepa_edge.runtimes.engine import host_engine, with_rows
from jepa_edge.runtimes.parity import compared

AXIS = "robots"
ALIKE = 0.999
"""Least cosine of a robot's row with what that robot gets alone: its kernel may round otherwise."""


def batched(sources: Iterable[GraphSource], most: int) -> list[GraphSource]:
    """For each graph that a server calls at every step the same with a free first axis; 0: none.

    The step graph if there is one (its keys and values lie robot after robot), else the encoder;
    and the predictor. Not the rollout: it computes some hundred candidates of one robot at once.
    """
    by_name = {source.name: source for source in sources}
    if not most:
        return []
    wanted = ["step" if "step" in by_name else "encoder", "predictor"]
    return [_for_many(by_name[name], most) for name in wanted if name in by_name]


def check_batch(most: int, target: Target) -> None:
    """Raises `WrongUseError` for a batch that no server could use."""
    if most == 1 or most < 0:
        raise WrongUseError(f"--batch {most}: give how many robots at the most, 2 or more")
    if most and target.engine == "tensorrt":
        raise WrongUseError(
            f"--batch is for servers, and {target.name} is a robot's board; export for x86-cpu or "
            "generic-onnx, and serve that"
        )


def rows_check(
    graph: Graph, file: Path, calls: Sequence[Tensors], engine: tuple[EngineName, Hint], most: int
) -> Check:
    """Whether each of `most` robots gets from the graph in `file` what it gets alone.

    `calls` are inputs of real calls, taken in turn.
    """
    rows = [calls[k % len(calls)] for k in range(most)]
    name, hint = engine
    alone = host_engine(name, file, with_rows(graph, 1), hint)
    together = host_engine(name, file, with_rows(graph, most), hint)
    outputs = together.run(
        {s.name: np.concatenate([r[s.name] for r in rows]) for s in graph.inputs}
    )
    worst = 1.0
    for k, row in enumerate(rows):
        for output, expected in alone.run(row).items():
            ours = outputs[output][k : k + 1]
            width = ours.shape[-1]
            found = compared(ours.reshape(-1, width), expected.reshape(-1, width))
            worst = min(worst, found.cosine_worst)
    detail = f"worst cosine {worst:.6f}"
    if not worst >= ALIKE:
        raise CheckFailedError(f"{file.name}: {most} robots at once get other answers: {detail}")
    return Check(
        name=f"{most} robots at once get what each gets alone", status="passed", detail=detail
    )


def _for_many(source: GraphSource, most: int) -> GraphSource:
    return msgspec.structs.replace(
        source,
        name=f"{source.name}@{most}",
        inputs=_free(source.inputs),
        outputs=_free(source.outputs),
        dynamic={spec.name: {0: AXIS} for spec in source.inputs},
    )


def _free(specs: list[TensorSpec]) -> list[TensorSpec]:
    return [msgspec.structs.replace(spec, shape=(-1, *spec.shape[1:])) for spec in specs]
