"""ONNX Runtime on the CPU."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepa_edge.bundle import Graph
from jepa_edge.contract import CheckFailedError, MissingExtraError, Tensors
from jepa_edge.runtimes.engine import check_ports
from jepa_edge.runtimes.memory import let_go
from jepa_edge.runtimes.ring import CACHE

ERRORS_ONLY = 3
FATAL_ONLY = 4


class OnnxRuntimeEngine:
    """A session; inputs and outputs of half-precision graphs are converted at the border.

    A `lean` one does not pack weights for its products, and gives memory back before each call: it
    needs less of it, and computes the same numbers a little slower.
    """

    def __init__(self, path: Path, graph: Graph, threads: int, *, lean: bool = False) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime", "onnxruntime") from error
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = threads
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        self.path, self.inputs, self.outputs = path, graph.inputs, graph.outputs
        self._lean = lean
        try:
            self._session = ort.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=disabled_optimizers(path),
            )
        except Exception as error:  # ORT raises a dozen private kinds
            raise CheckFailedError(f"ONNX Runtime cannot load {path}: {error}") from error
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = FATAL_ONLY  # failures reach us as exceptions
        kinds = {found.name: found.type for found in self._session.get_inputs()}
        check_ports(path, graph, kinds, [out.name for out in self._session.get_outputs()])
        self._dtypes = {name: _dtype(kind) for name, kind in kinds.items()}
        senses = [kind for name, kind in self._dtypes.items() if not name.startswith(CACHE)]
        self.precision_used = "f16" if np.dtype(np.float16) in senses else "f32"

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`."""
        if self._lean:
            let_go()
        try:
            feed = {
                s.name: inputs[s.name].astype(self._dtypes[s.name], copy=False) for s in self.inputs
            }
            results = self._session.run([s.name for s in self.outputs], feed, self._quiet)
        except Exception as error:  # ORT raises a dozen private kinds
            raise CheckFailedError(f"ONNX Runtime failed on {self.path.name}: {error}") from error
        return {s.name: np.asarray(r, s.dtype) for s, r in zip(self.outputs, results, strict=True)}


def disabled_optimizers(path: Path) -> list[str]:
    """What of ONNX Runtime's rewriting would take the integers out of the int8 graph at `path`.

    It makes one float Gemm of a product and its bias before it looks for products of integers, of
    which it then finds none: int8 would run in float, its weights widened again in every call.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return ["MatMulAddFusion"] if content.find(b"QuantizeLinear") >= 0 else []


DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int64)": np.int64,
}


def _dtype(kind: str) -> np.dtype[Any]:
    return np.dtype(DTYPES.get(kind, np.float32))
