"""Triton's model repository extension over gRPC: the index, load and unload.

KServe's own messages number the fields of load and unload otherwise than Triton's clients do and
have no index, so these three are described here, in a descriptor pool of their own.
Source: docs/protocol/extension_model_repository.md and grpc_service.proto of the Triton server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SERVICE = "inference.GRPCInferenceService"
STRING, BOOL, MESSAGE = 9, 8, 11
FIELDS = {
    "IndexRequest": [("repository_name", 1, STRING), ("ready", 2, BOOL)],
    "ModelIndex": [
        ("name", 1, STRING),
        ("version", 2, STRING),
        ("state", 3, STRING),
        ("reason", 4, STRING),
    ],
    "IndexResponse": [("models", 1, MESSAGE)],
    "ChangeRequest": [("repository_name", 1, STRING), ("model_name", 2, STRING)],
    "ChangeResponse": [],
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="jepa_edge/repository.proto", package="jepa_edge.repository", syntax="proto3"
    )
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            many = kind == MESSAGE
            added = message.field.add(name=field, number=number, label=3 if many else 1, type=kind)
            if many:
                added.type_name = ".jepa_edge.repository.ModelIndex"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = pool.FindMessageTypeByName
    return {
        name: message_factory.GetMessageClass(find(f"jepa_edge.repository.{name}"))
        for name in FIELDS
    }


MESSAGES = _messages()


class RepositoryHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Lists the models; loading one that is loaded is done at once, another does not exist.

    Models come and go with the server's bundle: unloading one for all robots is refused.
    """

    def __init__(self, names: Callable[[], list[str]]) -> None:
        self._names = names

    def service(self, details: Any) -> Any:  # noqa: ANN401  (grpc has no types)
        """The handler of `details.method`, or None."""
        calls = {
            "RepositoryIndex": ("IndexRequest", self._index),
            "RepositoryModelLoad": ("ChangeRequest", self._load),
            "RepositoryModelUnload": ("ChangeRequest", self._unload),
        }
        service, _, method = str(details.method).lstrip("/").partition("/")
        if service != SERVICE or method not in calls:
            return None
        message, call = calls[method]
        return grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=MESSAGES[message].FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )

    async def _index(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        answer = MESSAGES["IndexResponse"]()
        for name in self._names():
            answer.models.add(name=name, version="1", state="READY")
        return answer

    async def _load(self, request: Any, context: Any) -> Any:  # noqa: ANN401
        if request.model_name not in self._names():
            known = ", ".join(self._names())
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no model {request.model_name!r}; known: {known}"
            )
        return MESSAGES["ChangeResponse"]()

    async def _unload(self, request: Any, context: Any) -> Any:  # noqa: ANN401, ARG002
        await context.abort(
            grpc.StatusCode.PERMISSION_DENIED,
            "models cannot be unloaded while robots may use them; stop the server instead",
        )
