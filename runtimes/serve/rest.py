"""The REST half of the protocol: KServe's endpoints behind a size limit and the token."""

from __future__ import annotations

import json
import struct
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import metrics_handler
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints
from starlette.exceptions import HTTPException

from jepa_edge.contract import CheckFailedError, InputError
from jepa_edge.runtimes.serve.batching import ExpiredError, OverloadedError
from jepa_edge.runtimes.serve.sessions import SessionError
from jepa_edge.runtimes.serve.tokens import CALLER, Guard, UnknownCallerError

OPEN = ("/v2/health/live", "/v2/health/ready")

STATUS: tuple[tuple[type[Exception], int], ...] = (
    (ModelNotFound, 404),
    (ModelNotReady, 503),
    (ExpiredError, 504),
    (OverloadedError, 429),
    (SessionError, 409),
    (InvalidInput, 400),
    (InputError, 400),
    (RequestValidationError, 400),
    (HTTPException, 400),
    (NotImplementedError, 501),
    (CheckFailedError, 500),
    (KeyError, 400),  # what KServe's parser lets through for malformed JSON
    (TypeError, 400),
    (ValueError, 400),
    (struct.error, 400),
)


def rest_app(
    data: DataPlane, extension: ModelRepositoryExtension, guard: Guard, most_bytes: int
) -> Any:  # noqa: ANN401  (an ASGI application)
    """The application: /v2 and /metrics."""
    app = FastAPI(title="jepa-edge", openapi_url=None, docs_url=None, redoc_url=None)
    register_v2_endpoints(app, data, extension)
    app.add_api_route("/metrics", metrics_handler, methods=["GET"])
    for kind, _ in STATUS:
        app.add_exception_handler(kind, _failed)
    return _Gate(app, guard, most_bytes)


class _Gate:
    """ASGI middleware: refuses unknown callers and bodies that are too large, before reading."""

    def __init__(self, app: Any, guard: Guard, most_bytes: int) -> None:  # noqa: ANN401
        self._app, self._guard, self._most = app, guard, most_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1"): v.decode("latin-1") for key, v in scope["headers"]}
        if refused := self._refused(scope["path"], headers):
            await _answer(send, *refused)
            return
        taken = 0

        async def limited() -> Any:  # noqa: ANN401
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, limited, send)

    def _refused(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._most:
            return 413, f"the body is larger than {self._most} bytes"
        if path in OPEN:
            return None
        try:
            CALLER.set(self._guard.caller(headers.get("authorization", "")))
        except UnknownCallerError as error:
            return 401, str(error)
        return None


async def _answer(send: Any, status: int, error: str) -> None:  # noqa: ANN401
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _failed(_: Request, error: Exception) -> JSONResponse:
    status = next(code for kind, code in STATUS if isinstance(error, kind))
    said = str(error) or type(error).__name__
    if isinstance(error, HTTPException):
        status, said = error.status_code, str(error.detail)
    if isinstance(error, RequestValidationError):
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    return JSONResponse({"error": said}, status)
