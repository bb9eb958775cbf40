"""TensorRT on the board: runs the plans that `jepa-edge build` made and judged there.

TensorRT itself comes with JetPack; CUDA is called through its C library, which is always beside it.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jepa_edge.bundle import Graph, file_sha256
from jepa_edge.contract import CheckFailedError, Tensors, TensorSpec, WrongUseError
from jepa_edge.runtimes.engine import check_ports
from jepa_edge.runtimes.plan_audit import Audit, audit_from
from jepa_edge.runtimes.plans import Board, PlanStore, board_of, compiler
from jepa_edge.runtimes.ring import CACHE, NEW, TOKEN_AXIS

CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
TO_DEVICE, TO_HOST, WITHIN_DEVICE = 1, 2, 3
SM_MAJOR, SM_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor


class DeviceArray(NamedTuple):
    """An array on the GPU: where, and its sizes and type."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class DeviceSlots:
    """A cache of keys or values on the GPU (see `Slots`): a step's own are copied there into it.

    Nothing of it passes through the host; TensorRT reads it where it lies.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._cuda = cuda
        size = math.prod(shape) * dtype.itemsize
        self.given = DeviceArray(cuda.allocate(size), shape, dtype)
        weakref.finalize(self, cuda.free, self.given.address)
        cuda.zero(self.given.address, size)

    def put(self, begin: int, new: DeviceArray) -> None:
        """See `Slots.put`."""
        token = math.prod(new.shape[TOKEN_AXIS + 1 :]) * new.dtype.itemsize
        self._cuda.copy_rows(
            self.given.address + begin * token,
            self.given.shape[TOKEN_AXIS] * token,
            new.address,
            new.shape[TOKEN_AXIS] * token,
            math.prod(new.shape[:TOKEN_AXIS]),
        )


class TensorRtEngine:
    """A plan and its buffers on the GPU; what the borders are typed is converted there.

    Caches may be handed in as `DeviceArray` (see `slots`); the new keys and values are then lent
    as such, until the next call.
    """

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
        lent = set()
        for spec in self.inputs:
            self._context.set_tensor_address(spec.name, self._placed(spec.name, inputs[spec.name]))
            if isinstance(inputs[spec.name], DeviceArray):
                lent.add(NEW + spec.name.removeprefix(CACHE))
        if not self._context.execute_async_v3(self._cuda.stream):
            raise CheckFailedError(f"TensorRT failed on {self.path.name}")
        fetched = [spec.name for spec in self.outputs if spec.name not in lent]
        for name in fetched:
            self._cuda.copy(self._device[name], self._host[name], TO_HOST)
        self._cuda.wait()
        found: dict[str, Any] = {name: self._host[name].astype(np.float32) for name in fetched}
        return found | {name: self._array(name) for name in lent}

    def _placed(self, name: str, given: Any) -> int:  # noqa: ANN401  (an array, here or there)
        """The address on the GPU of the input `name`."""
        if isinstance(given, DeviceArray):
            return given.address
        np.copyto(self._host[name], given, casting="same_kind")
        self._cuda.copy(self._device[name], self._host[name], TO_DEVICE)
        return self._device[name]

    def _array(self, name: str) -> DeviceArray:
        host = self._host[name]
        return DeviceArray(self._device[name], host.shape, host.dtype)

    def slots(self, spec: TensorSpec) -> DeviceSlots:
        """See `KeepsCaches`."""
        cache, new = self._array(spec.name), self._array(NEW + spec.name.removeprefix(CACHE))
        if cache.dtype != new.dtype:
            raise CheckFailedError(f"{self.path}: {spec.name} and what is new in it differ in type")
        return DeviceSlots(self._cuda, cache.shape, cache.dtype)

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
        """The address of `size` new bytes, kept until `free` or the end of the process."""
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

    def copy_rows(self, to: int, to_pitch: int, source: int, width: int, rows: int) -> None:
        """Copies `rows` adjoining rows of `width` bytes on the GPU to rows `to_pitch` apart."""
        status = self._library.cudaMemcpy2DAsync(
            ctypes.c_void_p(to),
            ctypes.c_size_t(to_pitch),
            ctypes.c_void_p(source),
            ctypes.c_size_t(width),
            ctypes.c_size_t(width),
            ctypes.c_size_t(rows),
            WITHIN_DEVICE,
            ctypes.c_void_p(self.stream),
        )
        self._check(status, "copy on the device")

    def zero(self, address: int, size: int) -> None:
        """Zeros `size` bytes on the GPU."""
        where, stream = ctypes.c_void_p(address), ctypes.c_void_p(self.stream)
        self._check(
            self._library.cudaMemsetAsync(where, 0, ctypes.c_size_t(size), stream), "clear memory"
        )

    def free(self, address: int) -> None:
        """Gives back what `allocate` gave."""
        self._library.cudaFree(ctypes.c_void_p(address))

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
