"""Calls to a server of the Open Inference Protocol: a deadline each, hedged, bytes counted."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYetError
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.contract import InputError, MissingExtraError, Tensors, WrongUseError
from jepa_edge.runtimes.remote.wire import Answer, LateError, LinkError, RefusedError

SCHEMES = ("grpc://", "grpcs://")

TYPES = {
    "float32": "FP32",
    "float16": "FP16",
    "int8": "INT8",
    "uint8": "UINT8",
    "int64": "INT64",
    "object": "BYTES",
}
DTYPES = {name: dtype for dtype, name in TYPES.items() if name != "BYTES"}


class LinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is, and how it is called.

    Attributes:
        uri: ``grpc://host:port``, or ``grpcs://`` for TLS.
        token_file: holds the bearer token; read again for each connection.
        ca_file: certificates to trust for TLS; None: the system's.
        hedge_ms: an answer that is not here after so long is asked for again on a second
            connection, and the first of both counts; None never does.
        most_bytes: of an answer.
    """

    uri: str
    token_file: Path | None = None
    ca_file: Path | None = None
    hedge_ms: float | None = None
    most_bytes: int = 16 << 20


class Call:
    """A call under way. The first answer counts; what comes after the deadline is dropped."""

    def __init__(self, link: Link, request: Any, deadline_s: float) -> None:  # noqa: ANN401
        self._link, self._request = link, request
        self._began = time.monotonic()
        self._until = self._began + deadline_s
        self._answer: Future[Any] = Future()
        self._tries: list[Any] = []
        self._failed = 0
        self._lock = threading.Lock()
        self._try(0)
        hedge_ms = link.config.hedge_ms
        self._timer = None
        if hedge_ms is not None and hedge_ms / 1e3 < deadline_s:
            self._timer = threading.Timer(hedge_ms / 1e3, self._try, [1])
            self._timer.daemon = True
            self._timer.start()

    @property
    def request_bytes(self) -> int:
        """Size of the request, without HTTP/2."""
        return int(self._request.ByteSize())

    @property
    def done(self) -> bool:
        """Whether `result` would return or raise at once."""
        return self._answer.done() or time.monotonic() >= self._until

    def result(self, wait_s: float | None = None) -> Answer:
        """The answer; waits for it until the deadline, or `wait_s` at the most.

        Raises:
            LateError: there is none in time.
            RefusedError: the server said no.
            LinkError: there is no server, or the answer makes no sense.
        """
        import grpc

        left = self._until - time.monotonic()
        try:
            number, response = self._answer.result(
                max(0.0, left if wait_s is None else min(left, wait_s))
            )
        except NotYetError:
            raise LateError(f"no answer within {self._waited_ms():.0f} ms") from None
        except grpc.RpcError as error:
            code = error.code()
            if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
                raise LateError(f"no answer within {self._waited_ms():.0f} ms") from error
            if code is grpc.StatusCode.UNAVAILABLE:
                raise LinkError(f"no server at {self._link.config.uri}") from error
            raise RefusedError(code.name, str(error.details())) from error
        finally:
            self.cancel()
        if response.id != self._request.id:
            raise LinkError(f"an answer to {response.id!r} came for {self._request.id!r}")
        return Answer(
            outputs=_tensors(response),
            sent_bytes=self._request.ByteSize() * len(self._tries),
            received_bytes=response.ByteSize(),
            took_ms=self._waited_ms(),
            hedged=number > 0,
        )

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            tries, self._until = list(self._tries), min(self._until, time.monotonic())
        for one in tries:
            one.cancel()

    def _waited_ms(self) -> float:
        return (time.monotonic() - self._began) * 1e3

    def _try(self, number: int) -> None:
        with self._lock:
            left = self._until - time.monotonic()
            if left <= 0 or self._answer.done():
                return
            one = self._link.stub(number).ModelInfer.future(
                self._request, timeout=left, metadata=self._link.metadata
            )
            self._tries.append(one)
        one.add_done_callback(lambda done: self._take(number, done))

    def _take(self, number: int, done: Any) -> None:  # noqa: ANN401
        if done.cancelled():
            return
        error = done.exception()
        with self._lock:
            if self._answer.done():
                return
            if error is None:
                self._answer.set_result((number, done.result()))
                return
            self._failed += 1
            if self._failed == len(self._tries):
                self._answer.set_exception(error)


class Link:
    """Connections to one server. They are made when they are needed, and made anew on `renew`."""

    def __init__(self, config: LinkConfig) -> None:
        if not config.uri.startswith(SCHEMES) or ":" not in config.uri.partition("://")[2]:
            raise WrongUseError(f"{config.uri!r} is no server; give grpc://host:port or grpcs://")
        self.config = config
        self._grpc, self._messages, self._stubs = _libraries()
        self._channels: dict[int, Any] = {}
        self.metadata = self._authorization()

    def call(
        self,
        model: str,
        tensors: dict[str, Any],
        *,
        outputs: tuple[str, ...] = (),
        parameters: dict[str, str | int | bool] | None = None,
        name: str = "",
        deadline_s: float,
    ) -> Call:
        """Asks `model` for `outputs` (all when empty) of `tensors`; returns at once.

        `name` comes back with the answer, and tells whose it is.
        """
        request = self._messages.ModelInferRequest(model_name=model, id=name)
        for key, value in (parameters or {}).items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
            setattr(request.parameters[key], kind, value)
        for key, array in tensors.items():
            kind = TYPES[str(array.dtype)]
            request.inputs.add(name=key, datatype=kind, shape=array.shape)
            request.raw_input_contents.append(_bytes(array))
        for key in outputs:
            request.outputs.add(name=key)
        return Call(self, request, deadline_s)

    def metadata_of(self, model: str, *, timeout_s: float = 5.0) -> Any:  # noqa: ANN401
        """The protocol's metadata of `model`.

        Raises `LinkError` when there is no server, `RefusedError` when it has no such model.
        """
        request = self._messages.ModelMetadataRequest(name=model)
        try:
            return self.stub(0).ModelMetadata(request, timeout=timeout_s, metadata=self.metadata)
        except self._grpc.RpcError as error:
            code = error.code()
            if code in (self._grpc.StatusCode.UNAVAILABLE, self._grpc.StatusCode.DEADLINE_EXCEEDED):
                raise LinkError(f"no server at {self.config.uri}: {error.details()}") from error
            raise RefusedError(code.name, str(error.details())) from error

    def stub(self, number: int) -> Any:  # noqa: ANN401
        """The protocol over connection `number`."""
        if number not in self._channels:
            self._channels[number] = self._channel()
        return self._stubs.GRPCInferenceServiceStub(self._channels[number])

    def renew(self) -> None:
        """Drops the connections: after an outage, TCP may wait for seconds before it tries."""
        self.close()
        self.metadata = self._authorization()

    def close(self) -> None:
        """Drops the connections."""
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()

    def _channel(self) -> Any:  # noqa: ANN401
        options = [
            ("grpc.max_receive_message_length", self.config.most_bytes),
            ("grpc.use_local_subchannel_pool", 1),  # else both connections would be one
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 500),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_retries", 0),
        ]
        address = self.config.uri.partition("://")[2]
        if self.config.uri.startswith("grpcs://"):
            trusted = self.config.ca_file.read_bytes() if self.config.ca_file else None
            return self._grpc.secure_channel(
                address, self._grpc.ssl_channel_credentials(trusted), options
            )
        return self._grpc.insecure_channel(address, options)

    def _authorization(self) -> list[tuple[str, str]]:
        if self.config.token_file is None:
            return []
        try:
            token = self.config.token_file.read_text().strip()
        except OSError as error:
            raise WrongUseError(f"--token-file {self.config.token_file}: {error}") from error
        return [("authorization", f"Bearer {token}")]


def _bytes(array: Any) -> bytes:  # noqa: ANN401
    if array.dtype != object:
        return bytes(np.ascontiguousarray(array).tobytes())
    parts = []
    for item in array.ravel():  # the protocol's BYTES: each with its length before it
        parts += [len(item).to_bytes(4, "little"), bytes(item)]
    return b"".join(parts)


def _tensors(response: Any) -> Tensors:  # noqa: ANN401
    """Outputs by name. Raises `LinkError` when they are not what they say they are."""
    if len(response.raw_output_contents) != len(response.outputs):
        raise LinkError("the server's answer has no raw contents; this client needs them")
    found: Tensors = {}
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        if output.datatype not in DTYPES:
            raise LinkError(f"output {output.name} is {output.datatype}, which is not known here")
        try:
            array = np.frombuffer(data, DTYPES[output.datatype]).reshape(tuple(output.shape))
        except ValueError as error:
            raise LinkError(f"output {output.name} is not {list(output.shape)}") from error
        found[output.name] = array
    return found


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc
    except ImportError as error:
        raise MissingExtraError("tritonclient", "remote") from error
    return grpc, service_pb2, service_pb2_grpc


def checked(array: Any, shape: tuple[int, ...], name: str) -> Any:  # noqa: ANN401
    """`array`, if it has `shape`. Raises `InputError`."""
    if array is None or array.shape != shape:
        got = "missing" if array is None else list(array.shape)
        raise InputError(f"the server's {name} is {got}, needs {list(shape)}")
    return array
