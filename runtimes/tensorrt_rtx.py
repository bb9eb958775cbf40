"""TensorRT's parser and ahead-of-time compiler, which need no GPU."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec

from jepa_edge.bundle import Check
from jepa_edge.contract import CheckFailedError, WrongUseError
from jepa_edge.runtimes.engine import is_large
from jepa_edge.runtimes.plans import build_plan, compiler, timed_plan


def tensorrt_check(path: Path, capability: str = "SM86") -> Check:
    """Parses and builds an ONNX graph with the real TensorRT-RTX compiler.

    It targets desktop cards (SM86 Ampere, SM120 Blackwell), not Orin (SM87) or Thor (SM110), so it
    proves that TensorRT's parser and a strongly typed build take the graph, not what the board's
    plan computes. A large graph is built in a process of its own: a builder holds the weights three
    times, and gives the memory back only when its process ends.
    """
    if not is_large(path):
        return _checked(path, capability)
    command = [sys.executable, "-m", __name__, str(path), capability]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        died = f"the compiler's process ended with {done.returncode} (out of memory?)"
        return Check(name=_name(capability), status="failed", detail=died)
    return msgspec.json.decode(done.stdout, type=Check)


def _name(capability: str) -> str:
    return f"TensorRT-RTX build, {capability}"


def _checked(path: Path, capability: str) -> Check:
    name = _name(capability)
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


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(_checked(Path(sys.argv[1]), sys.argv[2])))
