"""TensorRT plans: built from strongly typed ONNX, kept by all that they depend on, never assumed.

A plan belongs to one TensorRT on one kind of GPU. `build_plan` speaks the Python API of TensorRT
10.x, 11.x and TensorRT-RTX, which compiles ahead of time on machines without a GPU.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec

from jepa_edge.bundle import OutputParity, file_sha256
from jepa_edge.contract import CheckFailedError, InputError, WrongUseError
from jepa_edge.runtimes.plan_audit import Audit

WORKSPACE_MIB = 1024
"""Scratch memory that the builder may try kernels with; 8 GB boards share it with everything."""
DYNAMIC_SIZES = (1, 256, 1024)
"""The least, usual and most that a dynamic axis may have in a plan."""
L4T_FILE = Path("/etc/nv_tegra_release")
Progress = Callable[[str, int, int], None]
Status = Literal["active", "failed", "not run here"]


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plan depends on beside its graph."""

    compiler: str
    capability: str
    l4t: str = ""
    power_mode: str = ""

    def key(self, onnx_sha256: str) -> str:
        """One name for a graph's plan here; another version, GPU, L4T or power mode: another."""
        fields = (self.compiler, self.capability, self.l4t, self.power_mode, onnx_sha256)
        return hashlib.sha256("|".join(fields).encode()).hexdigest()[:32]


class PlanRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one plan; only an ``active`` one is ever run.

    Attributes:
        graph: its name in the bundle.
        onnx_sha256: of the file that it was built from.
        board: that it was built on.
        plan_sha256: of the plan.
        plan_mib: its size.
        build_s: how long the build took.
        status: whether it may run: its numbers were compared on this board and hold.
        detail: why not, if not.
        parity: with the golden outputs that the bundle carries.
        audit: which layers and precisions the compiler really made; None where it cannot be asked.
    """

    graph: str
    onnx_sha256: str
    board: Board
    plan_sha256: str
    plan_mib: float
    build_s: float
    status: Status
    detail: str = ""
    parity: dict[str, OutputParity] = {}
    audit: Audit | None = None


class PlanStore:
    """Plans and their records, ``<cache>/plans/<key>.plan`` and ``.json``; records are last."""

    def __init__(self, folder: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(os.environ.get("JEPA_EDGE_CACHE") or Path(home) / "jepa-edge")
        self.folder = folder or root / "plans"

    def record(self, key: str) -> PlanRecord | None:
        """What is known of the plan at `key`; None if it was never finished."""
        try:
            return msgspec.json.decode((self.folder / f"{key}.json").read_bytes(), type=PlanRecord)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def plan(self, key: str) -> bytes:
        """The plan at `key`. Raises `CheckFailedError` if it is not the one that was recorded."""
        record = self.record(key)
        file = self.folder / f"{key}.plan"
        if record is None or not file.is_file() or file_sha256(file) != record.plan_sha256:
            raise CheckFailedError(f"the plan {file} is missing or changed; run jepa-edge build")
        return file.read_bytes()

    def keep(self, key: str, plan: bytes, record: PlanRecord) -> None:
        """Writes plan, then record, each whole or not at all."""
        self._write(f"{key}.plan", plan)
        self._write(f"{key}.json", msgspec.json.encode(record))

    def timing_cache(self, board: Board) -> Path:
        """Where kernels' timings of this board are kept from one build to the next."""
        return self.folder / f"{board.key('timings')}.timings"

    def _write(self, name: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f"{name}.{os.getpid()}.part"
        part.write_bytes(content)
        part.replace(self.folder / name)


def board_of(trt: ModuleType, capability: str) -> Board:
    """This machine, as far as a plan depends on it."""
    l4t = re.search(r"R(\d+).*REVISION: ([\d.]+)", _text(L4T_FILE))
    return Board(
        compiler=f"{trt.__name__.removesuffix('_bindings')} {trt.__version__}",
        capability=capability,
        l4t=f"{l4t[1]}.{l4t[2]}" if l4t else "",
        power_mode=_power_mode(),
    )


def build_plan(
    trt: ModuleType,
    path: Path,
    *,
    capability: str | None = None,
    timings: Path | None = None,
    workspace_mib: int = WORKSPACE_MIB,
    progress: Progress | None = None,
) -> bytes:
    """The plan TensorRT builds from a strongly typed ONNX file.

    Args:
        trt: ``tensorrt`` 10 or newer, or ``tensorrt_rtx_bindings``.
        path: the graph.
        capability: "SM86" and the like, of which RTX must be told where there is no GPU.
        timings: a file of kernel timings, read if there and written after; makes rebuilds quick
            and the same.
        workspace_mib: the most scratch memory to build with.
        progress: gets (phase, done, total).

    Raises:
        CheckFailedError: the parser or the builder refuses; with its own words.
        WrongUseError: an unknown capability.
    """
    logger = _listening(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        told = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CheckFailedError(f"TensorRT cannot parse {path}: {told}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib * 2**20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _allow_dynamic_sizes(builder, network, config)
    if capability:
        _aim(trt, config, capability)
    if progress:
        config.progress_monitor = _monitor(trt, progress)
    if trt.__name__.startswith("tensorrt_rtx"):
        timings = None  # RTX measures kernels when it loads a plan
    cache = _timing_cache(config, timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckFailedError(
            f"TensorRT cannot build a plan from {path}: {logger.told or 'it does not say why'}"
        )
    if timings and cache is not None:
        _keep_timings(config, timings)
    return bytes(plan)


def _network_flags(trt: ModuleType) -> int:
    """TensorRT 10 must be asked for strong typing; 11 knows nothing else and ignores the flag."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if typed is None else 1 << int(typed)


def _allow_dynamic_sizes(builder: Any, network: Any, config: Any) -> None:  # noqa: ANN401
    """A profile for inputs with dynamic axes: without one, the builder refuses them."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    if all(size >= 0 for tensor in inputs for size in tensor.shape):
        return
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        shapes = ([size if size >= 0 else d for size in tensor.shape] for d in DYNAMIC_SIZES)
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)


def _aim(trt: ModuleType, config: Any, capability: str) -> None:  # noqa: ANN401
    found = getattr(getattr(trt, "ComputeCapability", None), capability, None)
    if found is None:
        raise WrongUseError(f"{trt.__name__} does not compile for {capability}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(found, 0)


def _timing_cache(config: Any, timings: Path | None) -> Any:  # noqa: ANN401
    """A timing cache set on `config`, or None where none is wanted."""
    if timings is None:
        return None
    known = timings.read_bytes() if timings.is_file() else b""
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep_timings(config: Any, timings: Path) -> None:  # noqa: ANN401
    cache = config.get_timing_cache()
    if cache is None:
        return
    timings.parent.mkdir(parents=True, exist_ok=True)
    part = timings.with_name(f"{timings.name}.{os.getpid()}.part")
    part.write_bytes(bytes(cache.serialize()))
    part.replace(timings)


def _listening(trt: ModuleType) -> Any:  # noqa: ANN401
    """A logger that keeps the last error, which the builder tells nowhere else."""

    class Listening(trt.ILogger):  # type: ignore[misc, name-defined]
        told = ""

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.told = message

    return Listening()


def _monitor(trt: ModuleType, progress: Progress) -> Any:  # noqa: ANN401
    """TensorRT's own progress, its outermost phase."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = steps
                progress(phase, 0, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self.steps:
                progress(phase, step + 1, self.steps[phase])
            return True

        def phase_finish(self, phase: str) -> None:
            steps = self.steps.pop(phase, None)
            if steps is not None:
                progress(phase, steps, steps)

    return Monitor()


def timed_plan(build: Callable[[], bytes]) -> tuple[bytes, float]:
    """What `build` gives, and the seconds it took."""
    began = time.monotonic()
    plan = build()
    return plan, round(time.monotonic() - began, 3)


def compiler(name: str) -> ModuleType:
    """The Python module of ``tensorrt`` or ``tensorrt-rtx``. Raises `WrongUseError` without it."""
    try:
        if name == "tensorrt-rtx":
            import tensorrt_rtx_bindings

            found: ModuleType = tensorrt_rtx_bindings
            return found
        if name != "tensorrt":
            raise InputError(f"unknown compiler {name!r}; known: tensorrt, tensorrt-rtx")
        import tensorrt

        found = tensorrt
    except ImportError as error:
        hint = "pip install 'jepa-edge[tensorrt]'"
        if name == "tensorrt":
            hint = (
                "on a Jetson it comes with JetPack: apt install python3-libnvinfer, and a venv "
                "made with --system-site-packages; to try the build on a machine without a GPU: "
                "--compiler tensorrt-rtx"
            )
        raise WrongUseError(f"{name} is not on this machine; {hint}") from error
    return found


def _power_mode() -> str:
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"NV Power Mode: (\S+)", done.stdout)
    return found[1] if found else ""


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
