"""Does a model fit a board, before the board is bought? A roofline estimate, and said to be one.

The roofline (Williams et al. 2009, doi:10.1145/1498765.1498785) bounds a graph's time from below
by arithmetic over peak and by bytes over bandwidth. Small transformer graphs reach a fraction of
the peak; `EFFICIENCY` is what is assumed of it. `jepa-edge bench` measures, on the board itself.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from jepa_edge.bundle import Bundle, Graph, Manifest
from jepa_edge.contract import TensorSpec
from jepa_edge.devices.targets import Board, Target

EFFICIENCY = 0.25
"""The share of a data sheet's dense peak that graphs of this kind are taken to reach."""
MEMORY_SHARE = 0.6
"""The share of a board's memory that is left beside the system, cameras and buffers."""
BASE_BYTES = {"onnxruntime": 200 << 20, "openvino": 300 << 20, "tensorrt": 1200 << 20}
"""Python, the engine's libraries, and for TensorRT the CUDA context."""
COPIES = 2
"""Weights are held about twice: as read, and as the engine packs them."""

Bound = Literal["arithmetic", "memory"]


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """One board and precision, *estimated*; None where the board's peak is unknown."""

    target: str
    precision: str
    memory_mb: float
    fits_memory: bool
    step_ms: float | None = None
    bound: Bound | None = None
    budget_ms: float
    fits_rate: bool | None = None
    source: Literal["estimated"] = "estimated"


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a bundle's `model_config` that says how much arithmetic a token takes."""

    dim: int
    depth: int
    mlp_ratio: float = 4.0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one step costs: operations (a multiply-add is two) and bytes moved."""

    operations: float
    bytes: float


def fits(bundle: Bundle, targets: list[Target]) -> list[Fit]:
    """Every board that can run a precision of `bundle`, and how that should go."""
    return [
        _fit(bundle, target, target.board, precision)
        for target in targets
        for precision in bundle.manifest.precisions
        if target.board is not None and precision in target.precisions
    ]


def _fit(bundle: Bundle, target: Target, board: Board, precision: str) -> Fit:
    manifest = bundle.manifest
    graphs = manifest.precision(precision).graphs
    weights = sum(bundle.path(graph.path).stat().st_size for graph in graphs.values())
    state = sum(
        _bytes(spec) for graph in graphs.values() for spec in [*graph.inputs, *graph.outputs]
    )
    memory = BASE_BYTES[target.engine] + COPIES * (weights + state)
    budget_ms = 1e3 * manifest.senses.step_s
    common = Fit(
        target=target.name,
        precision=precision,
        memory_mb=round(memory / 1e6, 1),
        fits_memory=memory < MEMORY_SHARE * board.memory_gib * 2**30,
        budget_ms=round(budget_ms, 1),
    )
    if precision not in board.peak_tops:
        return common
    work = work_of_step(bundle, precision)
    arithmetic_ms = 1e3 * work.operations / (EFFICIENCY * board.peak_tops[precision] * 1e12)
    memory_ms = 1e3 * work.bytes / (board.bandwidth_gb_s * 1e9)
    step_ms = max(arithmetic_ms, memory_ms)
    return msgspec.structs.replace(
        common,
        step_ms=round(step_ms, 3),
        bound="arithmetic" if arithmetic_ms > memory_ms else "memory",
        fits_rate=step_ms < budget_ms,
    )


def work_of_step(bundle: Bundle, precision: str) -> Work:
    """One tick of the runtime: it encodes the new step, and predicts the future.

    A model that cannot stream encodes its whole clip again.
    """
    manifest = bundle.manifest
    graphs = manifest.precision(precision).graphs
    names = ["step" if "step" in graphs else "encoder", "predictor"]
    chosen = [graphs[name] for name in names if name in graphs]
    moved = sum(_moved(bundle, graph) for graph in chosen)
    return Work(operations=_operations(manifest, streams="step" in graphs), bytes=moved)


def _operations(manifest: Manifest, *, streams: bool) -> float:
    facts = manifest.model
    window = facts.window * facts.tokens_per_step
    total = 0.0
    if encoder := _stack(manifest, "encoder"):
        total += _transformer(encoder, facts.tokens_per_step if streams else window, window)
    if predictor := _stack(manifest, "predictor"):
        tokens = window + facts.horizon * facts.tokens_per_step
        total += _transformer(predictor, tokens, tokens)
    return total or 2.0 * facts.parameters * (facts.tokens_per_step if streams else window)


def _transformer(stack: Stack, tokens: int, seen: int) -> float:
    """Projections and MLP of each token, and its attention to the `seen` ones."""
    dense = (8 + 4 * stack.mlp_ratio) * stack.dim**2
    return stack.depth * tokens * (dense + 4.0 * seen * stack.dim)


def _stack(manifest: Manifest, name: str) -> Stack | None:
    try:
        return msgspec.convert(manifest.model_config.get(name), Stack)
    except msgspec.ValidationError:
        return None


def _moved(bundle: Bundle, graph: Graph) -> float:
    weights = bundle.path(graph.path).stat().st_size
    return float(weights + sum(_bytes(spec) for spec in [*graph.inputs, *graph.outputs]))


def _bytes(spec: TensorSpec) -> int:
    return 4 * math.prod(spec.shape)
