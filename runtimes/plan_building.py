"""Plans for a bundle: built, loaded, compared with its golden outputs, recorded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle, Graph, OutputParity, opened
from jepa_edge.contract import CheckFailedError, InputError, Tensors, WrongUseError
from jepa_edge.runtimes.engine import Engine
from jepa_edge.runtimes.parity import JUDGED, compared, missed
from jepa_edge.runtimes.plan_audit import Audit
from jepa_edge.runtimes.plans import (
    WORKSPACE_MIB,
    Board,
    PlanRecord,
    PlanStore,
    Progress,
    board_of,
    build_plan,
    compiler,
    timed_plan,
)

RTX_CAPABILITY = "SM86"
HERE = "TensorRT-RTX only compiles for other machines: loaded and compared on the board"


class BuildConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to build, with what."""

    bundle: Path
    precisions: tuple[str, ...] = ()
    compiler: str = "tensorrt"
    workspace_mib: int = WORKSPACE_MIB
    again: bool = False


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, or found built."""

    board: Board
    plans: list[PlanRecord]
    warnings: list[str]


Judge = Callable[[bytes], tuple[dict[str, OutputParity], Audit | None]]
"""Runs a plan on golden inputs: its parity, and what the compiler made of it."""


def build_plans(config: BuildConfig, progress: Progress, store: PlanStore | None = None) -> Built:
    """Builds the plans of a bundle that this board lacks, and judges each before it may run.

    Raises:
        WrongUseError: a bundle for another engine, an unknown precision, no compiler here.
        CheckFailedError: TensorRT refuses a graph.
    """
    store = store or PlanStore()
    with opened(config.bundle) as bundle:
        if bundle.manifest.engine != "tensorrt":
            raise WrongUseError(
                f"{config.bundle} is for {bundle.manifest.engine}, which builds nothing; "
                "plans are for TensorRT targets: export --target jetson"
            )
        trt = compiler(config.compiler)
        board = board_of(trt, _capability(config.compiler, bundle))
        plans = [
            _built(f"{name}/{graph_name}", graph, bundle, config, (trt, board, store), progress)
            for name in config.precisions or bundle.manifest.precisions
            for graph_name, graph in bundle.manifest.precision(name).graphs.items()
        ]
    warnings = [
        f"{one.graph}: {warning}" for one in plans if one.audit for warning in one.audit.warnings
    ]
    return Built(board=board, plans=plans, warnings=warnings)


def _capability(name: str, bundle: Bundle) -> str:
    if name == "tensorrt-rtx":
        return RTX_CAPABILITY
    from jepa_edge.runtimes.engine_tensorrt import Cuda

    return Cuda(bundle.manifest.target).capability


def _built(
    label: str,
    graph: Graph,
    bundle: Bundle,
    config: BuildConfig,
    where: tuple[ModuleType, Board, PlanStore],
    progress: Progress,
) -> PlanRecord:
    trt, board, store = where
    sha = bundle.manifest.files[graph.path]
    key = board.key(sha)
    known = store.record(key)
    if known and not config.again:
        return msgspec.structs.replace(known, graph=label)
    is_rtx = config.compiler == "tensorrt-rtx"
    build = partial(
        build_plan,
        trt,
        bundle.path(graph.path),
        capability=board.capability if is_rtx else None,
        timings=store.timing_cache(board),
        workspace_mib=config.workspace_mib,
        progress=lambda phase, done, total: progress(f"{label}: {phase}", done, total),
    )
    plan, took = timed_plan(build)
    judge = None if is_rtx else _judge_on_board(trt, bundle, label, graph)
    really = f"{graph.precision or label.partition('/')[0]}/{label.partition('/')[2]}"
    record = judged_record(really, sha, board, plan, judge)
    record = msgspec.structs.replace(record, graph=label, build_s=took)
    store.keep(key, plan, record)
    return record


def judged_record(
    label: str, onnx_sha256: str, board: Board, plan: bytes, judge: Judge | None
) -> PlanRecord:
    """The record of a plan: ``active`` only if `judge` ran it and its numbers hold.

    Args:
        label: precision/graph.
        onnx_sha256: of its graph.
        board: it was built on.
        plan: to judge.
        judge: None where the plan cannot be run.
    """
    import hashlib

    record = PlanRecord(
        graph=label,
        onnx_sha256=onnx_sha256,
        board=board,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        plan_mib=round(len(plan) / 2**20, 3),
        build_s=0.0,
        status="not run here",
        detail=HERE,
    )
    if judge is None:
        return record
    precision = label.partition("/")[0]
    try:
        parity, audit = judge(plan)
    except CheckFailedError as error:
        return msgspec.structs.replace(record, status="failed", detail=str(error))
    problems = missed(parity, precision) + (audit.missing(precision) if audit else [])
    if not parity:
        problems.append("the bundle carries no golden outputs of it to compare with")
    return msgspec.structs.replace(
        record,
        status="failed" if problems else "active",
        detail="; ".join(problems),
        parity=parity,
        audit=audit,
    )


def golden_of(bundle: Bundle, graph: str) -> tuple[Tensors, Tensors]:
    """Inputs and expected outputs of `graph` that the bundle carries. Raises `InputError`."""
    if not bundle.manifest.golden:
        raise InputError(f"{bundle.folder} carries no golden inputs; export it again")
    with np.load(bundle.path(bundle.manifest.golden)) as arrays:
        return (
            {n.split("/")[2]: arrays[n] for n in arrays if n.startswith(f"{graph}/in/")},
            {n.split("/")[2]: arrays[n] for n in arrays if n.startswith(f"{graph}/out/")},
        )


def golden_parity(engine: Engine, bundle: Bundle, graph: str) -> dict[str, OutputParity]:
    """How close `engine` comes to the golden outputs of `graph`."""
    given, wanted = golden_of(bundle, graph)
    got = engine.run(given)
    return {
        name: compared(
            got[name].reshape(-1, got[name].shape[-1]),
            wanted[name].reshape(-1, wanted[name].shape[-1]),
        )
        for name in JUDGED
        if name in wanted and name in got
    }


def _judge_on_board(trt: ModuleType, bundle: Bundle, label: str, graph: Graph) -> Judge:
    def judge(plan: bytes) -> tuple[dict[str, OutputParity], Audit | None]:
        from jepa_edge.runtimes.engine_tensorrt import TensorRtEngine

        engine = TensorRtEngine(bundle.path(graph.path), graph, bundle.manifest.target, plan=plan)
        return golden_parity(engine, bundle, label.partition("/")[2]), engine.audit(trt)

    return judge
