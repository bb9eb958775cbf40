"""The server: gRPC and REST of the protocol in one process; each request is checked first."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import msgspec
import uvicorn
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from grpc_interceptor.server import AsyncServerInterceptor
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as stubs
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from jepa_edge.contract import CheckFailedError, InputError, WrongUseError
from jepa_edge.runtimes.serve.batching import DEADLINE, ExpiredError, OverloadedError
from jepa_edge.runtimes.serve.endpoint import Endpoint
from jepa_edge.runtimes.serve.metrics import REQUESTS, SECONDS, SESSIONS
from jepa_edge.runtimes.serve.models import FixedRepository, ServedModel
from jepa_edge.runtimes.serve.repository import RepositoryHandler
from jepa_edge.runtimes.serve.rest import rest_app
from jepa_edge.runtimes.serve.service import Service
from jepa_edge.runtimes.serve.sessions import SessionError
from jepa_edge.runtimes.serve.tokens import CALLER, Guard, UnknownCallerError

OPEN = ("ServerLive", "ServerReady")
"""What a load balancer may ask without a token."""

CODES: tuple[tuple[type[Exception], StatusCode], ...] = (
    (UnknownCallerError, StatusCode.UNAUTHENTICATED),
    (ExpiredError, StatusCode.DEADLINE_EXCEEDED),
    (OverloadedError, StatusCode.RESOURCE_EXHAUSTED),
    (SessionError, StatusCode.FAILED_PRECONDITION),
    (ModelNotFound, StatusCode.NOT_FOUND),
    (ModelNotReady, StatusCode.UNAVAILABLE),
    (InvalidInput, StatusCode.INVALID_ARGUMENT),
    (InputError, StatusCode.INVALID_ARGUMENT),
    (CheckFailedError, StatusCode.INTERNAL),
)


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Where it listens."""

    grpc: int
    http: int | None


class _Gate(AsyncServerInterceptor):
    """Lets known callers in, turns our errors into the protocol's, and counts."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept(
        self,
        method: Any,  # noqa: ANN401
        request_or_iterator: Any,  # noqa: ANN401
        context: Any,  # noqa: ANN401
        method_name: str,
    ) -> Any:  # noqa: ANN401
        """See `AsyncServerInterceptor`."""
        name = method_name.rpartition("/")[2]
        model = str(getattr(request_or_iterator, "model_name", "")) if name == "ModelInfer" else ""
        began, code, message = time.perf_counter(), StatusCode.OK, ""
        try:
            self._admit(name, context)
            if isinstance(request_or_iterator, _Malformed):
                raise InputError(f"no message of {name}: {request_or_iterator.reason}")
            return await method(request_or_iterator, context)
        except grpc.RpcError:
            raise
        except aio.AbortError:
            code = StatusCode.UNKNOWN
            raise
        except Exception as error:  # noqa: BLE001  (nothing may end the server)
            code, message = _status(error)
        finally:
            if model:
                known = model if code is not StatusCode.NOT_FOUND else "unknown"
                REQUESTS.labels(model=known, code=code.name).inc()
                SECONDS.labels(model=known).observe(time.perf_counter() - began)
        return await context.abort(code, message)

    def _admit(self, name: str, context: Any) -> None:  # noqa: ANN401
        if name not in OPEN:
            given = {key: value for key, value in context.invocation_metadata()}  # noqa: C416
            CALLER.set(self._guard.caller(str(given.get("authorization", ""))))
        left = context.time_remaining()
        DEADLINE.set(None if left is None else time.monotonic() + left)


class Server:
    """A service behind the protocol; `run` serves until it is told to stop."""

    def __init__(self, service: Service, endpoint: Endpoint) -> None:
        self.service, self.endpoint = service, endpoint
        self._guard = Guard(endpoint.token_key)
        self._pool = ThreadPoolExecutor(endpoint.callers, thread_name_prefix="request")
        models = FixedRepository()
        for served in service.models.values():
            models.update(ServedModel(served, service, self._pool))
        self._data = DataPlane(model_registry=models)
        self._extension = ModelRepositoryExtension(model_registry=models)
        SESSIONS.set_function(lambda: len(service.sessions))

    async def run(self, told: Callable[[Ports], None]) -> None:
        """Serves until SIGTERM or SIGINT; requests under way are finished. `told` gets the ports.

        Raises `WrongUseError` for a port that is taken or a certificate that cannot be read.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        calls, grpc_port = await self._grpc()
        web, http_port = self._http()
        serving = asyncio.create_task(web.serve()) if web else None
        while web and not web.started and serving and not serving.done():
            await asyncio.sleep(0.01)
        told(Ports(grpc=grpc_port, http=http_port))
        waiting = asyncio.create_task(stop.wait())
        await asyncio.wait(
            {waiting} | ({serving} if serving else set()), return_when=asyncio.FIRST_COMPLETED
        )
        if web and serving:
            web.should_exit = True
            await serving
        await calls.stop(grace=5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _grpc(self) -> tuple[Any, int]:
        most = self.endpoint.most_bytes
        server = aio.server(
            interceptors=(_Gate(self._guard),),
            options=[
                ("grpc.max_receive_message_length", most),
                ("grpc.max_send_message_length", most),
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        names = list(self.service.models)
        standard = _Collected()
        servicer = InferenceServicer(self._data, self._extension)
        stubs.add_GRPCInferenceServiceServicer_to_server(servicer, standard)
        server.add_generic_rpc_handlers((RepositoryHandler(lambda: names), *standard.handlers))
        address = f"{self.endpoint.host}:{self.endpoint.port}"
        try:
            if self.endpoint.tls_cert and self.endpoint.tls_key:
                pair = (self.endpoint.tls_key.read_bytes(), self.endpoint.tls_cert.read_bytes())
                port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
            else:
                port = server.add_insecure_port(address)
        except (RuntimeError, OSError, ValueError) as error:
            raise WrongUseError(f"cannot listen on {address}: {error}") from error
        await server.start()
        return server, int(port)

    def _http(self) -> tuple[Any, int | None]:
        if self.endpoint.http_port is None:
            return None, None
        app = rest_app(self._data, self._extension, self._guard, self.endpoint.most_bytes)
        cert, key = self.endpoint.tls_cert, self.endpoint.tls_key
        config = uvicorn.Config(
            app,
            host=self.endpoint.host,
            port=self.endpoint.http_port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
            ssl_certfile=None if cert is None else str(cert),
            ssl_keyfile=None if key is None else str(key),
        )
        try:
            sock = config.bind_socket()
        except SystemExit as error:  # how uvicorn tells that a port is taken
            raise WrongUseError(
                f"cannot listen on {self.endpoint.host}:{self.endpoint.http_port} for REST"
            ) from error
        return _Web(config, sock), int(sock.getsockname()[1])


class _Malformed(msgspec.Struct, frozen=True):
    """In place of a request whose bytes are no message."""

    reason: str


class _Collected:
    """Takes a service's handlers as a server would, so that others can come before them."""

    handlers: tuple[Any, ...] = ()

    def add_generic_rpc_handlers(self, handlers: tuple[Any, ...]) -> None:
        """See `grpc.Server`."""
        self.handlers += tuple(_Lenient(handler) for handler in handlers)

    def add_registered_method_handlers(self, *_: Any) -> None:  # noqa: ANN401
        """The same ones, which would come before all others."""


class _Lenient(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Lets the gate answer bytes that are no message, which gRPC would call an unknown error."""

    def __init__(self, handler: Any) -> None:  # noqa: ANN401
        self._handler = handler

    def service(self, details: Any) -> Any:  # noqa: ANN401
        """See `grpc.GenericRpcHandler`."""
        found = self._handler.service(details)
        if found is None:
            return None
        parse = found.request_deserializer

        def parsed(data: bytes) -> Any:  # noqa: ANN401
            try:
                return parse(data)
            except DecodeError as error:
                return _Malformed(str(error))

        return found._replace(request_deserializer=parsed)


class _Web(uvicorn.Server):
    """A uvicorn server on a ready socket, which leaves the signals to us."""

    def __init__(self, config: uvicorn.Config, sock: Any) -> None:  # noqa: ANN401
        super().__init__(config)
        self._sock = sock

    async def serve(self, sockets: Any = None) -> None:  # noqa: ANN401
        """See `uvicorn.Server.serve`."""
        await super().serve(sockets or [self._sock])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Takes none."""
        yield


def _status(error: Exception) -> tuple[StatusCode, str]:
    for kind, code in CODES:
        if isinstance(error, kind):
            return code, str(getattr(error, "reason", error))
    return StatusCode.INTERNAL, f"the server failed: {type(error).__name__}"
