"""OpenVINO on the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import numpy as np

from jepa_edge.bundle import Graph
from jepa_edge.contract import CheckFailedError, MissingExtraError, Tensors
from jepa_edge.runtimes.engine import check_ports
from jepa_edge.runtimes.ring import NEW

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")


class OpenVinoEngine:
    """A compiled IR. OpenVINO would compute in bf16 where the CPU can: the hint is explicit.

    Inputs are read where they lie (a ring of keys and values is never copied). New keys and values
    are lent: they stay valid until the next call.
    """

    def __init__(self, path: Path, graph: Graph, inference_precision: str, threads: int) -> None:
        try:
            import openvino as ov
        except ImportError as error:
            raise MissingExtraError("OpenVINO", "openvino") from error
        if inference_precision == "bf16" and not _computes_bf16(ov):
            inference_precision = "f32"  # emulated bf16 is slower than either
        options: dict[str, object] = {
            "INFERENCE_PRECISION_HINT": inference_precision,
            "PERFORMANCE_HINT": "LATENCY",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if inference_precision == "f32":
            options["EXECUTION_MODE_HINT"] = "ACCURACY"
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.path, self.inputs, self.outputs = path, graph.inputs, graph.outputs
        try:
            core = ov.Core()
            model = core.read_model(str(path))
            if model.is_dynamic():  # several times as fast where the manifest knows the sizes
                model.reshape({s.name: ov.PartialShape(list(s.shape)) for s in graph.inputs})
            compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise CheckFailedError(f"OpenVINO cannot compile {path}: {error}") from error
        sides = (compiled.inputs, compiled.outputs)
        names = [{name for port in side for name in port.get_names()} for side in sides]
        check_ports(path, graph, *names)
        self.precision_used = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        self._request = compiled.create_infer_request()
        self._lent = {spec.name for spec in graph.outputs if spec.name.startswith(NEW)}

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`."""
        try:
            given = {spec.name: inputs[spec.name] for spec in self.inputs}
            results = self._request.infer(given, share_inputs=True, share_outputs=True)
        except (KeyError, RuntimeError) as error:
            raise CheckFailedError(f"OpenVINO failed on {self.path.name}: {error}") from error
        return {
            spec.name: results[spec.name]
            if spec.name in self._lent
            else np.array(results[spec.name])
            for spec in self.outputs
        }


def _computes_bf16(ov: ModuleType) -> bool:
    """Whether this CPU multiplies bf16 (AVX512-BF16 or AMX)."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
