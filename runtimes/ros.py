"""ROS 2 topics without a ROS installation: CDR messages over zenoh, as rmw_zenoh_cpp speaks it.

A robot that runs ROS 2 with ``RMW_IMPLEMENTATION=rmw_zenoh_cpp`` sees a node ``jepa_edge`` and its
topics. The wire format is that of rmw_zenoh_cpp 0.2.4 and later (its docs/design.md): key
expression ``<domain>/<topic>/<type>/<RIHS01>``, a liveliness token per node and publisher, and an
attachment of sequence number, source time and GID.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from jepa_edge.contract import InputError, MissingExtraError, WrongUseError
from jepa_edge.runtimes.loop import Tick

NODE = "jepa_edge"
QOS = "::,1:,:,:,,"
"""Reliable and volatile (the defaults, so empty), the last one kept: only the newest matters."""
LATENTS, STATUS = "std_msgs/msg/Float32MultiArray", "diagnostic_msgs/msg/DiagnosticStatus"
TOPICS = {"latent": LATENTS, "prediction": LATENTS, "action": LATENTS, "status": STATUS}
LEVELS = {"ok": 0, "warming": 1, "hold": 2}
GID_BYTES = 16


class RosTypes:
    """The ROS messages we send, as bytes, and their names on the wire."""

    def __init__(self) -> None:
        try:
            from rosbags.typesys import Stores, get_typestore
        except ImportError as error:
            raise MissingExtraError("rosbags", "ros") from error
        self.store = get_typestore(Stores.ROS2_JAZZY)

    def wire_type(self, name: str) -> str:
        """``pkg::msg::dds_::Name_/RIHS01_…`` of ``pkg/msg/Name``."""
        package, kind, message = name.split("/")
        return f"{package}::{kind}::dds_::{message}_/{self.store.hash_rihs01(name)}"

    def array(self, values: list[Any]) -> bytes:
        """A Float32MultiArray of nested lists of equal lengths; each dimension is named."""
        types, data = self.store.types, np.asarray(values, np.float32)
        dimension = types["std_msgs/msg/MultiArrayDimension"]
        labels = ("step", "latent")[-data.ndim :]
        strides = [int(np.prod(data.shape[axis:])) for axis in range(data.ndim)]
        layout = types["std_msgs/msg/MultiArrayLayout"](
            dim=[
                dimension(label=label, size=size, stride=stride)
                for label, size, stride in zip(labels, data.shape, strides, strict=True)
            ],
            data_offset=0,
        )
        return self._cdr(LATENTS, types[LATENTS](layout=layout, data=data.ravel()))

    def status(self, tick: Tick) -> bytes:
        """A DiagnosticStatus: OK, WARN while warming, ERROR on hold, with what was measured."""
        types = self.store.types
        pair = types["diagnostic_msgs/msg/KeyValue"]
        measured = {
            "step": tick.step,
            "captured_ns": tick.captured_ns,
            "age_ms": tick.age_ms,
            "latency_ms": tick.latency_ms,
            "dropped": tick.dropped,
            "surprise": tick.surprise,
            "goal_distance": tick.goal_distance,
        }
        status = types[STATUS](
            level=LEVELS[tick.state],
            name=NODE,
            message=tick.reason or tick.state,
            hardware_id="",
            values=[pair(key=k, value=str(v)) for k, v in measured.items() if v is not None],
        )
        return self._cdr(STATUS, status)

    def _cdr(self, name: str, message: Any) -> bytes:  # noqa: ANN401  (a type made by rosbags)
        return bytes(self.store.serialize_cdr(message, name))


def topic_key(domain: int, topic: str, wire_type: str) -> str:
    """The key expression that rmw_zenoh_cpp publishes `topic` under."""
    return f"{domain}/{topic.strip('/')}/{wire_type}"


def node_token(domain: int, zid: str) -> str:
    """The liveliness token by which a node is seen."""
    return f"@ros2_lv/{domain}/{zid}/0/0/NN/%/%/{NODE}"


def publisher_token(domain: int, zid: str, number: int, topic: str, wire_type: str) -> str:
    """The liveliness token by which a publisher is seen."""
    mangled = "%" + topic.strip("/").replace("/", "%")
    return f"@ros2_lv/{domain}/{zid}/0/{number}/MP/%/%/{NODE}/{mangled}/{wire_type}/{QOS}"


def attachment(sequence: int, source_ns: int, gid: bytes) -> bytes:
    """What rmw_zenoh_cpp reads beside each message: 33 bytes in zenoh's own serialization."""
    from zenoh.ext import Int64, z_serialize

    return bytes(z_serialize((Int64(sequence), Int64(source_ns), gid)))


class RosTopics:
    """Publishes each tick on ``/<prefix>/latent``, ``prediction``, ``action`` and ``status``.

    A hold publishes its status alone: there are no latents and no action, never old ones.
    """

    def __init__(self, rest: str) -> None:
        """Opens ``PREFIX?domain=0&connect=tcp/HOST:7447``; the prefix is ``jepa_edge`` if empty.

        Raises `WrongUseError` for another query, `InputError` when zenoh cannot reach the router,
        `MissingExtraError` without rosbags and zenoh.
        """
        prefix, _, query = rest.partition("?")
        options = dict(parse_qsl(query))
        if unknown := set(options) - {"domain", "connect"}:
            raise WrongUseError(
                f"ros2: unknown {', '.join(sorted(unknown))}; known: domain, connect"
            )
        self.types = RosTypes()
        self.domain, self.sequence = _domain(options.get("domain", "0")), 0
        self.session = _session(options.get("connect"))
        zid = str(self.session.info.zid())
        self.gids: dict[str, bytes] = {}
        self.keys: dict[str, str] = {}
        liveliness = self.session.liveliness()
        self.tokens = [liveliness.declare_token(node_token(self.domain, zid))]
        for number, (name, kind) in enumerate(TOPICS.items(), start=1):
            topic, wire_type = f"{prefix or NODE}/{name}", self.types.wire_type(kind)
            token = publisher_token(self.domain, zid, number, topic, wire_type)
            self.tokens.append(liveliness.declare_token(token))
            self.keys[name] = topic_key(self.domain, topic, wire_type)
            self.gids[name] = hashlib.sha256(token.encode()).digest()[:GID_BYTES]

    def take(self, tick: Tick) -> bool:
        """Publishes what there is of the tick; zenoh drops it if nobody listens."""
        self.sequence += 1
        for name in ("latent", "prediction", "action"):
            values = getattr(tick, name)
            if values is not None:
                self._publish(name, self.types.array(values))
        self._publish("status", self.types.status(tick))
        return True

    def close(self) -> None:
        """Leaves the graph."""
        for token in self.tokens:
            token.undeclare()
        self.session.close()

    def _publish(self, name: str, payload: bytes) -> None:
        beside = attachment(self.sequence, time.time_ns(), self.gids[name])
        self.session.put(self.keys[name], payload, attachment=beside)


def _domain(text: str) -> int:
    if not text.isdigit():
        raise WrongUseError(f"ros2: domain is {text!r}; it is a number, as ROS_DOMAIN_ID")
    return int(text)


def _session(connect: str | None) -> Any:  # noqa: ANN401  (zenoh has no types)
    """A session that goes through the router at `connect`, or finds its peers by itself."""
    try:
        import zenoh
    except ImportError as error:
        raise MissingExtraError("eclipse-zenoh", "ros") from error
    config = zenoh.Config()
    if connect:
        config.insert_json5("mode", '"client"')
        config.insert_json5("connect/endpoints", f'["{connect}"]')
    try:
        return zenoh.open(config)
    except zenoh.ZError as error:
        raise InputError(
            f"ros2: zenoh cannot connect to {connect or 'any peer'}: {error}"
        ) from error
