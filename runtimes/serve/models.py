"""The service as KServe models: the protocol's requests → `Request` → its responses."""

from __future__ import annotations

import asyncio
import contextvars
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jepa_edge.contract import InputError, MissingExtraError
from jepa_edge.runtimes.remote.wire import FIRST_STEP, SEQUENCE_END, SEQUENCE_ID, SEQUENCE_START
from jepa_edge.runtimes.serve.service import DATATYPES, Port, Request, Served, Service
from jepa_edge.runtimes.serve.tokens import CALLER

os.environ.setdefault("KSERVE_LOGLEVEL", "CRITICAL")  # one line a call costs more than the call

_arguments, sys.argv = sys.argv, sys.argv[:1]  # KServe parses the command line when imported
try:
    from kserve import InferOutput, InferRequest, InferResponse, Model, ModelRepository
    from kserve.errors import InvalidInput
except ImportError as error:
    raise MissingExtraError("KServe", "cloud") from error
finally:
    sys.argv = _arguments

TYPES = DATATYPES | {"int64": "INT64"}


class ServedModel(Model):  # type: ignore[misc]  # kserve has no types
    """One model of the service."""

    def __init__(self, served: Served, service: Service, pool: ThreadPoolExecutor) -> None:
        super().__init__(served.name)
        self.served, self._service, self._pool = served, service, pool
        self.ready = True

    def get_input_types(self) -> list[dict[str, Any]]:
        """Of the protocol's model metadata."""
        return [_port(port) for port in self.served.inputs]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Of the protocol's model metadata."""
        return [_port(port) for port in self.served.outputs]

    async def predict(
        self,
        payload: Any,  # noqa: ANN401
        headers: dict[str, str] | None = None,  # noqa: ARG002
        response_headers: dict[str, str] | None = None,  # noqa: ARG002
    ) -> Any:  # noqa: ANN401
        """Runs in a thread of the pool, with this request's deadline and caller."""
        if not isinstance(payload, InferRequest):
            raise InvalidInput("send inference requests of version 2 of the protocol")
        try:
            request = request_from(payload, self.served, CALLER.get())
        except InputError as error:
            raise InvalidInput(str(error)) from error
        run = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        outputs = await loop.run_in_executor(self._pool, run, self._service.infer, request)
        wanted = {output.name for output in payload.request_outputs or []}
        if unknown := wanted - {port.name for port in self.served.outputs}:
            raise InvalidInput(f"{self.name} has no output {', '.join(sorted(unknown))}")
        found = []
        for name, array in outputs.items():
            if not wanted or name in wanted:
                output = InferOutput(name, list(array.shape), TYPES[str(array.dtype)])
                output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
                found.append(output)
        return InferResponse(
            payload.id or "",
            self.name,
            found,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


class FixedRepository(ModelRepository):  # type: ignore[misc]
    """The models of one bundle: they are loaded, and stay."""

    def load(self, name: str) -> bool:
        """Whether there is such a model."""
        return name in self.models

    def unload(self, name: str) -> None:
        """Refuses, as every robot would lose the model."""
        raise InvalidInput(f"{name} cannot be unloaded while robots may use it; stop the server")


def request_from(payload: Any, served: Served, caller: str) -> Request:  # noqa: ANN401
    """The typed request in `payload`, an `InferRequest` of KServe.

    Raises `InputError` for unknown, doubled or malformed inputs and parameters.
    """
    ports = {port.name: port for port in served.inputs}
    tensors: dict[str, Any] = {}
    for given in payload.inputs:
        if given.name not in ports or given.name in tensors:
            again = " twice" if given.name in tensors else ""
            raise InputError(
                f"{served.name} does not take input {given.name!r}{again}; it takes "
                f"{', '.join(ports)}"
            )
        tensors[given.name] = _array(given, ports[given.name])
    parameters = _plain(payload.parameters)
    session = str(parameters.get(SEQUENCE_ID, "") or "")
    if len(session) > 128:
        raise InputError("sequence_id is longer than 128 characters")
    return Request(
        model=served.name,
        tensors=tensors,
        session=f"{caller}/{session}" if session else "",
        start=bool(parameters.get(SEQUENCE_START, False)),
        end=bool(parameters.get(SEQUENCE_END, False)),
        first_step=_integer(parameters.get(FIRST_STEP, 0)),
    )


def _array(given: Any, port: Port) -> Any:  # noqa: ANN401
    if given.datatype != port.datatype:
        raise InputError(f"{port.name} is {given.datatype}, needs {port.datatype}")
    shape = list(given.shape)
    fits = len(shape) == len(port.shape) and all(
        got > 0 and (want < 0 or got == want) for got, want in zip(shape, port.shape, strict=True)
    )
    if not fits:
        raise InputError(f"{port.name} has shape {shape}, needs {port.shape} (-1 is free)")
    try:
        return given.as_numpy()
    except (ValueError, TypeError, OverflowError, MemoryError, struct.error, InvalidInput) as error:
        raise InputError(f"{port.name}: its data is not {shape} of {given.datatype}") from error


def _plain(parameters: Any) -> dict[str, Any]:  # noqa: ANN401
    found = {}
    for name, value in dict(parameters or {}).items():
        kind = value.WhichOneof("parameter_choice") if hasattr(value, "WhichOneof") else None
        found[str(name)] = getattr(value, kind) if kind else value
    return found


def _integer(value: Any) -> int:  # noqa: ANN401
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise InputError(f"{FIRST_STEP} is {value!r}; it numbers steps from 0")
    return value


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "datatype": port.datatype, "shape": port.shape}
