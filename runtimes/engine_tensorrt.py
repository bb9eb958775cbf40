"""TensorRT on the board: builds the plan from ONNX once, keeps it, runs it.

A plan belongs to one TensorRT version on one kind of GPU, so it is made here and never shipped.
TensorRT itself comes with JetPack; CUDA is called through its C library, which is always beside it.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jepa_edge.bundle import Graph, file_sha256
from jepa_edge.contract import CheckFailedError, Tensors, WrongUseError
from jepa_edge.front import stderr
from jepa_edge.runtimes.engine import check_ports

CUDART = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
TO_DEVICE, TO_HOST = 1, 2
SM_MAJOR, SM_MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, …Minor


class TensorRtEngine:
    """A plan and its buffers on the GPU; what the borders are typed is converted there."""

    def __init__(self, path: Path, graph: Graph, target: str) -> None:
        trt = _tensorrt(target)
        self._cuda = Cuda(target)
        self.path, self.inputs, self.outputs = path, graph.inputs, graph.outputs
        logger = trt.Logger(trt.Logger.ERROR)
        plan = _plan(trt, path, self._cuda.capability)
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


def plan_from_onnx(trt: ModuleType, path: Path, capability: str | None = None) -> bytes:
    """The plan TensorRT builds from a strongly typed ONNX file.

    Args:
        trt: ``tensorrt`` 10 or newer, or ``tensorrt_rtx_bindings``, which needs no GPU.
        path: the graph.
        capability: "SM86" and the like, of which RTX must be told where there is no GPU.

    Raises:
        CheckFailedError: the parser or the builder refuses; with its own words.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        told = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CheckFailedError(f"TensorRT cannot parse {path}: {told}")
    config = builder.create_builder_config()
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckFailedError(f"TensorRT cannot build a plan from {path}")
    return bytes(plan)


def plan_path(version: str, path: Path, capability: str) -> Path:
    """Where the plan of the graph at `path` is kept; another version, GPU or graph, another file.

    ``JEPA_EDGE_CACHE``, else ``XDG_CACHE_HOME/jepa-edge``, else ``~/.cache/jepa-edge``.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("JEPA_EDGE_CACHE") or Path(home) / "jepa-edge") / "plans"
    return folder / f"{path.stem}-{file_sha256(path)[:16]}-trt{version}-{capability}.plan"


def _plan(trt: ModuleType, path: Path, capability: str) -> bytes:
    kept = plan_path(trt.__version__, path, capability)
    if kept.is_file():
        return kept.read_bytes()
    with stderr.status(f"TensorRT {trt.__version__} builds {path.name} for this board, once"):
        plan = plan_from_onnx(trt, path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(plan)
    part.replace(kept)
    return plan


def _tensorrt(target: str) -> ModuleType:
    try:
        import tensorrt
    except ImportError as error:
        raise WrongUseError(
            f"this bundle is for {target}, whose TensorRT builds and runs its plan; there is none "
            "here (on a Jetson it comes with JetPack: apt install python3-libnvinfer, and a venv "
            "made with --system-site-packages). To run on a PC: export with --target x86-cpu"
        ) from error
    module: ModuleType = tensorrt
    return module


def _cudart(target: str) -> ctypes.CDLL:
    for name in CUDART:
        with suppress(OSError):
            return ctypes.CDLL(name)
    raise WrongUseError(
        f"this bundle is for {target} and needs CUDA; none of {', '.join(CUDART)} is on this "
        "machine (on a Jetson: apt install nvidia-jetpack)"
    )
