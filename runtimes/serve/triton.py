"""The service inside Triton: its Python backend calls this; see `jepa_edge.export.triton`.

Triton does the protocol, the queueing and the scaling; graphs of engines that Triton has a backend
for do not come here at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import JepaEdgeError
from jepa_edge.runtimes.remote.wire import FIRST_STEP
from jepa_edge.runtimes.serve.batching import BatchConfig
from jepa_edge.runtimes.serve.service import Request, Service, ServiceConfig

NEEDS = {"stream": ("step", "encoder", "predictor"), "pilot": ("step", "rollout")}
"""The graphs that a model uses; any other model is a graph, or plans with ``rollout``."""


class TritonPythonModel:
    """What Triton's Python backend expects; one model of the service in a process of its own."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Opens the bundle that the model's configuration names."""
        import triton_python_backend_utils as utils  # only there inside of Triton

        self._utils = utils
        config = json.loads(arguments["model_config"])
        chosen = {key: value["string_value"] for key, value in config["parameters"].items()}
        folder = Path(arguments["model_repository"]) / chosen["bundle"]
        self._name = arguments["model_name"]
        wanted = NEEDS.get(self._name, ("rollout",) if self._name == "planner" else (self._name,))
        self._service = Service(
            open_bundle(folder.resolve()),
            chosen["precision"],
            ServiceConfig(batch=BatchConfig(most=1, threads=int(chosen["threads"])), graphs=wanted),
        )
        self._served = self._service.models[self._name]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Ends the workers."""
        self._service.close()

    def _answer(self, request: Any) -> Any:  # noqa: ANN401
        utils = self._utils
        try:
            outputs = self._service.infer(self._request(request))
        except (JepaEdgeError, ValueError) as error:
            code = utils.TritonError.INVALID_ARG
            return utils.InferenceResponse(error=utils.TritonError(str(error), code))
        wanted = set(request.requested_output_names())
        tensors = [utils.Tensor(n, array) for n, array in outputs.items() if n in wanted]
        return utils.InferenceResponse(output_tensors=tensors)

    def _request(self, request: Any) -> Request:  # noqa: ANN401
        tensors = {}
        for port in self._served.inputs:
            tensor = self._utils.get_input_tensor_by_name(request, port.name)
            if tensor is not None:
                tensors[port.name] = tensor.as_numpy()
        flags, given = request.flags(), json.loads(request.parameters() or "{}")
        return Request(
            model=self._name,
            tensors=tensors,
            session=str(request.correlation_id() or ""),
            start=bool(flags & self._utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START),
            end=bool(flags & self._utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END),
            first_step=int(given.get(FIRST_STEP, 0)),
        )
