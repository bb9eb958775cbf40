"""One graph, loaded on one backend."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import msgspec

from jepa_edge.bundle import Bundle, EngineName, Graph
from jepa_edge.contract import CheckFailedError, Tensors, TensorSpec, WrongUseError

LARGE_BYTES = 1 << 28
"""Beyond this a graph is judged by an engine that spares memory, where there is a choice."""


class Engine(Protocol):
    """A loaded graph: arrays by name in, arrays by name out."""

    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    precision_used: str
    """What the backend says it computes in, read back from it."""

    def run(self, inputs: Tensors) -> Tensors:
        """Outputs by name for `inputs` of exactly the shapes and dtypes of the specs.

        Raises `CheckFailedError` when the backend fails.
        """


def open_engine(
    bundle: Bundle, graph: str, precision: str | None = None, *, threads: int = 0, rows: int = 0
) -> Engine:
    """The engine for one graph of `bundle`; `threads` 0 lets the backend choose.

    With `rows` it is made for exactly so many robots, if the graph takes any number.

    Raises:
        WrongUseError: no such precision or graph, or the backend is not on this machine.
        MissingExtraError: the backend's library is not installed.
        CheckFailedError: the backend does not take the graph, or it is not the manifest's.
    """
    entry = bundle.manifest.precision(precision)
    graphs = entry.graphs | entry.batched
    if graph not in graphs:
        raise WrongUseError(f"the bundle has no graph {graph!r}; it has: {', '.join(entry.graphs)}")
    found: Graph = with_rows(graphs[graph], rows) if rows else graphs[graph]
    path = bundle.path(found.path)
    match bundle.manifest.engine:
        case "openvino":
            from jepa_edge.runtimes.engine_openvino import OpenVinoEngine

            hint = found.inference_precision or entry.inference_precision
            return OpenVinoEngine(path, found, hint, threads)
        case "onnxruntime":
            from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(path, found, threads)
        case "tensorrt":
            from jepa_edge.runtimes.engine_tensorrt import TensorRtEngine

            return TensorRtEngine(path, found, bundle.manifest.target)


def host_engine(engine: EngineName, path: Path, graph: Graph, hint: str) -> Engine:
    """The engine that judges a graph where it is made.

    The real one of the target; for TensorRT, whose plans need the board, ONNX Runtime on the very
    same graph.
    """
    if engine == "openvino":
        from jepa_edge.runtimes.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(path, graph, hint, 0)
    from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(path, graph, 0, lean=is_large(path))


def is_large(path: Path) -> bool:
    """Whether the ONNX graph at `path`, with what it keeps beside it, is a large one."""
    return sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) > LARGE_BYTES


def with_rows(graph: Graph, rows: int) -> Graph:
    """`graph` with a free first axis of its ports fixed to `rows`; others stay as they are."""

    def fixed(specs: list[TensorSpec]) -> list[TensorSpec]:
        return [
            msgspec.structs.replace(spec, shape=(rows, *spec.shape[1:]))
            if spec.shape[0] == -1
            else spec
            for spec in specs
        ]

    return msgspec.structs.replace(graph, inputs=fixed(graph.inputs), outputs=fixed(graph.outputs))


def check_ports(path: Path, graph: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Raises `CheckFailedError` unless the graph's ports are the ones that its manifest names."""
    for kind, specs, there in (
        ("takes", graph.inputs, set(inputs)),
        ("gives", graph.outputs, set(outputs)),
    ):
        named = {spec.name for spec in specs}
        if not named <= there:
            raise CheckFailedError(
                f"{path} {kind} {', '.join(sorted(there))}, but its manifest says "
                f"{', '.join(sorted(named))}; export the bundle again"
            )
