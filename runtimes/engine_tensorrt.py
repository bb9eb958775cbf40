"""TensorRT on the board: runs the plans that `jepa-edge build` made and judged there.

TensorRT itself comes with JetPack; CUDA is called through its C library, which is always beside it.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jepa_edge.bundle import Graph, file_sha256
from jepa_edge.contract import CheckFailedError, Tensors, WrongUseError
from jepa_edge.runtimes.engine import check_ports
from jepa_edge.runtimes.plan_audit import Audit, audit_from
from jepa_edge.runtimes.plans import Board, PlanStore, board_of, compiler

CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
TO_DEVICE, TO_HOST = 1, 2
SM_MAJOR, SM_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor


class TensorRtEngine:
    """A plan and its buffers on the GPU; what the borders are typed is converted there."""

    def __init__(self, path: Path, graph: Graph, target: str, *, plan: bytes | None = None) -> None:
        """Loads `plan`, or the one that ``jepa-edge build`` made and judged on this board."""
        trt = _tensorrt(target)
        self._cuda = Cuda(target)
        self.path, self.inputs, self.outputs = path, graph.inputs, graph.outputs
        logger = trt.Logger(trt.Logger.ERROR)
        if plan is None:
            board = board_of(trt, self._cuda.capability)
            plan = active_plan(PlanStore(), board, file_sha256(path), path)
        self._engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if self._engine is None:
            raise CheckFailedError(f"TensorRT cannot load the plan that it built from {path}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        is_input = {n: self._engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT for n in names}
        check_ports(
            path, graph, [n for n in names if is_input[n]], [n for n in names if not is_input[n]]
        )
        self._context = self._engine.create_execution_context()
        self._host = {
            name: np.empty(
                tuple(self._engine.get_tensor_shape(name)),
                trt.nptype(self._engine.get_tensor_dtype(name)),
            )
            for name in names
        }
        self._device = {name: self._cuda.allocate(self._host[name].nbytes) for name in names}
        for name, address in self._device.items():
            self._context.set_tensor_address(name, address)
        first = self._host[graph.inputs[0].name].dtype
        self.precision_used = "f16" if first == np.float16 else "f32"

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`."""
        for spec in self.inputs:
            np.copyto(self._host[spec.name], inputs[spec.name], casting="same_kind")
            self._cuda.copy(self._device[spec.name], self._host[spec.name], TO_DEVICE)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise CheckFailedError(f"TensorRT failed on {self.path.name}")
        for spec in self.outputs:
            self._cuda.copy(self._device[spec.name], self._host[spec.name], TO_HOST)
        self._cuda.wait()
        return {spec.name: self._host[spec.name].astype(np.float32) for spec in self.outputs}

    def audit(self, trt: ModuleType) -> Audit:
        """What the plan really runs."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return audit_from(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


class Cuda:
    """The few calls of the CUDA runtime that inference needs, on one stream."""

    def __init__(self, target: str) -> None:
        self._library = _cudart(target)
        stream = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreate(ctypes.byref(stream)), "open a stream")
        self.stream = stream.value or 0

    @property
    def capability(self) -> str:
        """The kind of GPU, such as "sm87"."""
        digits = []
        for attribute in (SM_MAJOR, SM_MINOR):
            value = ctypes.c_int()
            status = self._library.cudaDeviceGetAttribute(ctypes.byref(value), attribute, 0)
            self._check(status, "ask what it is")
            digits.append(str(value.value))
        return "sm" + "".join(digits)

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, kept until the process ends."""
        address = ctypes.c_void_p()
        status = self._library.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size))
        self._check(status, f"give {size} bytes")
        return address.value or 0

    def copy(self, device: int, host: Any, kind: int) -> None:  # noqa: ANN401  (any array)
        """Copies all of the array `host` to (`TO_DEVICE`) or from (`TO_HOST`) `device`."""
        here, there = ctypes.c_void_p(host.ctypes.data), ctypes.c_void_p(device)
        to, source = (there, here) if kind == TO_DEVICE else (here, there)
        size, stream = ctypes.c_size_t(host.nbytes), ctypes.c_void_p(self.stream)
        self._check(self._library.cudaMemcpyAsync(to, source, size, kind, stream), "copy")

    def wait(self) -> None:
        """Returns when all that was asked is done."""
        status = self._library.cudaStreamSynchronize(ctypes.c_void_p(self.stream))
        self._check(status, "finish")

    def _check(self, status: int, what: str) -> None:
        if status:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            told = self._library.cudaGetErrorString(status)
            raise CheckFailedError(f"CUDA cannot {what}: {(told or b'?').decode()}")


def active_plan(store: PlanStore, board: Board, onnx_sha256: str, path: Path) -> bytes:
    """The plan of a graph that was judged on this board. Raises `CheckFailedError` without one."""
    key = board.key(onnx_sha256)
    record = store.record(key)
    if record is None:
        raise CheckFailedError(
            f"{path} has no plan for this board ({board.compiler}, {board.capability}"
            f"{', L4T ' + board.l4t if board.l4t else ''}); nothing is built while a robot runs: "
            "first jepa-edge build --bundle THE_BUNDLE"
        )
    if record.status != "active":
        raise CheckFailedError(f"the plan of {path} may not run: {record.detail}")
    return store.plan(key)


def _tensorrt(target: str) -> ModuleType:
    try:
        return compiler("tensorrt")
    except WrongUseError as error:
        raise WrongUseError(
            f"this bundle is for {target}, whose TensorRT builds and runs its plan; there is none "
            "here (on a Jetson it comes with JetPack: apt install python3-libnvinfer, and a venv "
            "made with --system-site-packages). To run on a PC: export with --target x86-cpu"
        ) from error


def _cudart(target: str) -> ctypes.CDLL:
    for name in CUDART:
        with suppress(OSError):
            return ctypes.CDLL(name)
    raise WrongUseError(
        f"this bundle is for {target} and needs CUDA; none of {', '.join(CUDART)} is on this "
        "machine (on a Jetson: apt install nvidia-jetpack)"
    )
