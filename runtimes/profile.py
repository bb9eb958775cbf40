"""Where the time of a graph goes, node by node, as its own engine tells it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle, Graph, Hint
from jepa_edge.contract import MissingExtraError, Tensors, WrongUseError
from jepa_edge.runtimes.engine_onnxruntime import disabled_optimizers

CALLS = 5


class NodeTime(msgspec.Struct, frozen=True, kw_only=True):
    """One node that was executed: what is left of the graph after the engine's fusions.

    Attributes:
        name: of the node; engines name a fused one after one of its parts.
        operator: its kind, in the engine's words.
        kernel: what computed it and in which type, where the engine tells.
        ms: median over the calls.
    """

    name: str
    operator: str
    kernel: str
    ms: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes of one operator and kernel."""

    operator: str
    kernel: str
    nodes: int
    ms: float
    share: float


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One graph's nodes and groups, slowest first."""

    graph: str
    precision: str
    engine: str
    total_ms: float
    groups: list[Group]
    nodes: list[NodeTime]


def profile_of(bundle: Bundle, graph: str, precision: str | None = None) -> Profile:
    """Profiles `graph` on its golden inputs (zeros where a bundle has none).

    Raises:
        WrongUseError: no such graph or precision, or an engine that tells nothing of its nodes.
        MissingExtraError: the engine's library is not installed.
    """
    entry = bundle.manifest.precision(precision)
    if graph not in entry.graphs:
        raise WrongUseError(f"the bundle has no graph {graph!r}; it has: {', '.join(entry.graphs)}")
    found = entry.graphs[graph]
    given, path = _inputs(bundle, graph, found), bundle.path(found.path)
    match bundle.manifest.engine:
        case "openvino":
            hint = found.inference_precision or entry.inference_precision
            nodes = _openvino(path, given, hint)
        case "onnxruntime":
            nodes = _onnxruntime(path, given)
        case other:
            raise WrongUseError(
                f"{other} plans are profiled on the board with NVIDIA's trtexec "
                "--dumpProfile --separateProfileRun"
            )
    nodes.sort(key=lambda node: -node.ms)
    total = sum(node.ms for node in nodes)
    return Profile(
        graph=graph,
        precision=precision or bundle.manifest.default_precision,
        engine=bundle.manifest.engine,
        total_ms=round(total, 3),
        groups=_groups(nodes, total),
        nodes=nodes,
    )


def _inputs(bundle: Bundle, name: str, graph: Graph) -> Tensors:
    stored: Tensors = {}
    if bundle.manifest.golden:
        with np.load(bundle.path(bundle.manifest.golden), allow_pickle=False) as golden:
            start = f"{name}/in/"
            stored = {n.removeprefix(start): golden[n] for n in golden if n.startswith(start)}
    return {spec.name: stored.get(spec.name, spec.zeros()) for spec in graph.inputs}


def _openvino(path: Path, given: Tensors, hint: Hint) -> list[NodeTime]:
    try:
        import openvino as ov
    except ImportError as error:
        raise MissingExtraError("OpenVINO", "openvino") from error
    options = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    request = ov.Core().compile_model(str(path), "CPU", options).create_infer_request()
    request.infer(given)
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for _ in range(CALLS):
        request.infer(given)
        for node in request.profiling_info:
            key = node.node_name, node.node_type, node.exec_type
            times[key].append(node.real_time.total_seconds() * 1e3)
    return _medians(times)


def _onnxruntime(path: Path, given: Tensors) -> list[NodeTime]:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingExtraError("ONNX Runtime", "onnxruntime") from error
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(path),
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=disabled_optimizers(path),
        )
        halves = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
        feed = {n: a.astype(np.float16) if n in halves else a for n, a in given.items()}
        for _ in range(CALLS + 1):
            session.run(None, feed)
        events: list[Any] = json.loads(Path(session.end_profiling()).read_bytes())
    times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            key = name, event["args"].get("op_name", "?"), event["args"].get("provider", "")
            times[key].append(event["dur"] / 1e3)
    return _medians({key: found[1:] or found for key, found in times.items()})


def _medians(times: dict[tuple[str, str, str], list[float]]) -> list[NodeTime]:
    """Nodes that took any time; the others were fused into them or are free."""
    found = []
    for (name, operator, kernel), measured in times.items():
        ms = float(np.median(measured))
        if ms > 0:
            found.append(NodeTime(name=name, operator=operator, kernel=kernel, ms=round(ms, 4)))
    return found


def _groups(nodes: Iterable[NodeTime], total: float) -> list[Group]:
    together: dict[tuple[str, str], list[float]] = defaultdict(list)
    for node in nodes:
        together[node.operator, node.kernel].append(node.ms)
    groups = [
        Group(
            operator=operator,
            kernel=kernel,
            nodes=len(ms),
            ms=round(sum(ms), 3),
            share=round(sum(ms) / total, 4) if total else 0.0,
        )
        for (operator, kernel), ms in together.items()
    ]
    return sorted(groups, key=lambda group: -group.ms)
