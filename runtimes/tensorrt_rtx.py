"""TensorRT's parser and ahead-of-time compiler, which need no GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from jepa_edge.bundle import Check
from jepa_edge.contract import CheckFailedError, WrongUseError
from jepa_edge.runtimes.plans import build_plan, compiler, timed_plan


def tensorrt_check(path: Path, capability: str = "SM86") -> Check:
    """Parses and builds an ONNX graph with the real TensorRT-RTX compiler.

    It targets desktop cards (SM86 Ampere, SM120 Blackwell), not Orin (SM87) or Thor (SM110), so it
    proves that TensorRT's parser and a strongly typed build take the graph, not what the board's
    plan computes.
    """
    name = f"TensorRT-RTX build, {capability}"
    try:
        trt = compiler("tensorrt-rtx")
    except WrongUseError:
        hint = "pip install 'jepa-edge[tensorrt]' to run it"
        return Check(name=name, status="not run here", detail=hint)
    try:
        plan, took = timed_plan(partial(build_plan, trt, path, capability=capability))
    except CheckFailedError as error:
        return Check(name=name, status="failed", detail=str(error)[:500])
    detail = f"plan of {len(plan) / 1e6:.1f} MB in {took:.1f} s"
    return Check(name=name, status="passed", detail=detail)
