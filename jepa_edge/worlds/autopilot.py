"""A simulated autopilot: how PX4 and ArduPilot treat setpoints, at the other end of a MAVLink link.

Not a flight simulator: the contract of offboard control. It is calibrated to what was measured on
the real ones in software-in-the-loop runs (`LIKE`): how long they fly on without setpoints, how far
they drift, what they do with NaN, which mode they go to. It is the peer of the fault drill.
"""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pymavlink.dialects.v20 import common as mavlink

TICK_S = 0.01
STREAM_BEFORE_S = 1.0
"""PX4 lets nobody choose OFFBOARD before setpoints have come for so long."""
HEARTBEAT_S, TELEMETRY_S = 0.2, 0.05
OURS = 1
PX4_MODES = {"offboard": 6 << 16, "position": 3 << 16, "hold": 4 << 16 | 3 << 24}
PX4_MODES |= {"land": 4 << 16 | 6 << 24, "return": 4 << 16 | 5 << 24}
COPTER_MODES = {"offboard": 4, "position": 16, "hold": 5, "land": 9, "return": 6}
PX4_LOSS = {0: "position", 3: "return", 4: "land", 5: "hold"}
Vector = tuple[float, float, float]
Kind = Literal["px4", "ardupilot"]


class Like(NamedTuple):
    """One autopilot's answer to a change of wanted velocity: `order` equal lags of `lag_s` each."""

    autopilot: int
    order: int
    lag_s: float
    modes: dict[str, int]
    parameters: dict[str, float]


LIKE: dict[Kind, Like] = {
    # 2.35 m/s, silence: out of OFFBOARD after COM_OF_LOSS_T, 0.33 m/s at 3 s, 4.8 m in all.
    "px4": Like(
        mavlink.MAV_AUTOPILOT_PX4,
        1,
        1.04,
        PX4_MODES,
        {"COM_OF_LOSS_T": 1.0, "COM_OBL_RC_ACT": 5},
    ),
    # 3 m/s, silence: as before for GUID_TIMEOUT; with 3 s, 2.43 at 3.5 s, 1.11 at 4, 0.12 at 5.
    "ardupilot": Like(
        mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA, 3, 1 / 3.2, COPTER_MODES, {"GUID_TIMEOUT": 1.0}
    ),
}


class Taken(NamedTuple):
    """One setpoint that came: when, and the velocity (forward, right, down) it asked for."""

    at_ns: int
    velocity: Vector
    yaw_rate: float
    kind: str


@dataclass
class State:
    """Where the vehicle is (north, east, down), and what it does."""

    armed: bool = False
    mode: str = "hold"
    position: list[float] = field(default_factory=lambda: [0.0, 0.0, -10.0])
    yaw: float = 0.0
    lags: list[list[float]] = field(default_factory=list)

    @property
    def velocity(self) -> list[float]:
        """North, east, down."""
        return self.lags[-1]

    @property
    def speed(self) -> float:
        """Of all axes."""
        return math.hypot(*self.velocity)


class Autopilot:
    """Flies, listens, and reports, in a thread of its own; close it."""

    def __init__(
        self,
        kind: Kind,
        port: int,
        *,
        parameters: dict[str, float] | None = None,
        key: bytes | None = None,
    ) -> None:
        self.kind, self.like, self.address = kind, LIKE[kind], ("127.0.0.1", port)
        self.parameters = self.like.parameters | (parameters or {})
        self.state = State(lags=[[0.0, 0.0, 0.0] for _ in range(self.like.order)])
        self.taken: list[Taken] = []
        self.told: list[tuple[int, mavlink.MAVLink_message]] = []
        self.packets: list[bytes] = []
        self.refused = 0
        self._wanted: Vector = (0.0, 0.0, 0.0)
        self._turn = 0.0
        self._fresh_s = -math.inf
        self._since_s = math.inf
        self._codec = mavlink.MAVLink(None, srcSystem=OURS, srcComponent=1)
        self._codec.robust_parsing = True
        if key is not None:
            self._codec.signing.secret_key = key
            self._codec.signing.sign_outgoing = True
            self._codec.signing.timestamp = round((time.time() - 1_420_070_400) * 100_000)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(TICK_S / 2)
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._fly, daemon=True)
        self._thread.start()

    @property
    def place(self) -> tuple[str, int]:
        """Where it listens: what is sent there reaches it as if from the companion."""
        host, port = self._socket.getsockname()
        return host, port

    def choose(self, mode: str, *, arm: bool = True) -> bool:
        """What a pilot does: arms and chooses a mode; False when the autopilot refuses it."""
        with self._lock:
            streaming = time.monotonic() - self._fresh_s < self._loss_s()
            long_enough = time.monotonic() - self._since_s >= STREAM_BEFORE_S
            if mode == "offboard" and self.kind == "px4" and not (streaming and long_enough):
                return False
            self.state.armed, self.state.mode = arm, mode
            self._heartbeat()
            return True

    def hear(self, packet: bytes) -> None:
        """Takes one packet as if it had come over the link."""
        with self._lock:
            self._hear(packet)

    def send(self, message: mavlink.MAVLink_message) -> bytes:
        """Sends a message to the companion; returns the packet."""
        with self._lock:
            packet = bytes(message.pack(self._codec))
            self._codec.seq = (self._codec.seq + 1) % 256
            self._socket.sendto(packet, self.address)
            return packet

    def close(self) -> None:
        """Lands out of sight."""
        self._closed.set()
        self._thread.join()
        self._socket.close()

    def _fly(self) -> None:
        last_s = beat_s = telemetry_s = time.monotonic()
        while not self._closed.is_set():
            with suppress(TimeoutError, ConnectionError):
                self.hear(self._socket.recv(2048))
            now_s = time.monotonic()
            if now_s - last_s < TICK_S:
                continue
            with self._lock:
                while last_s + TICK_S <= now_s:
                    last_s += TICK_S
                    self._move(last_s)
                if now_s - beat_s >= HEARTBEAT_S:
                    beat_s = now_s
                    self._heartbeat()
                if now_s - telemetry_s >= TELEMETRY_S:
                    telemetry_s = now_s
                    self._report(now_s)

    def _move(self, now_s: float) -> None:
        state = self.state
        if state.armed and state.mode == "offboard" and now_s - self._fresh_s > self._loss_s():
            self._wanted, self._turn = (0.0, 0.0, 0.0), 0.0
            if self.kind == "px4":
                state.mode = PX4_LOSS.get(int(self.parameters["COM_OBL_RC_ACT"]), "position")
        steered = state.armed and state.mode == "offboard"
        aim = self._wanted if steered else (0.0, 0.0, 0.0)
        share = 1 - math.exp(-TICK_S / self.like.lag_s)
        for lag in state.lags:
            for axis in range(3):
                lag[axis] += share * (aim[axis] - lag[axis])
            aim = (lag[0], lag[1], lag[2])
        state.yaw += TICK_S * (self._turn if steered else 0.0)
        for axis in range(3):
            state.position[axis] += TICK_S * state.velocity[axis]

    def _loss_s(self) -> float:
        return self.parameters["COM_OF_LOSS_T" if self.kind == "px4" else "GUID_TIMEOUT"]

    def _hear(self, packet: bytes) -> None:
        self.packets.append(packet)
        for message in self._codec.parse_buffer(packet) or []:
            self.refused += message.get_type() == "BAD_DATA"
            match message.get_type():
                case "HEARTBEAT" | "STATUSTEXT" | "COMMAND_ACK":
                    self.told.append((time.monotonic_ns(), message))
                case "PARAM_REQUEST_READ":
                    self._tell(message.param_id)
                case "SET_POSITION_TARGET_LOCAL_NED":
                    velocity = (message.vx, message.vy, message.vz)
                    self._take(Taken(time.monotonic_ns(), velocity, message.yaw_rate, "velocity"))
                case "SET_ATTITUDE_TARGET":
                    self._take(self._tilted(message))

    def _take(self, setpoint: Taken) -> None:
        """NaN is no setpoint: to PX4 as if none had come, to ArduPilot an order to stop."""
        self.taken.append(setpoint)
        now_s = time.monotonic()
        if not all(map(math.isfinite, (*setpoint.velocity, setpoint.yaw_rate))):
            if self.kind == "ardupilot":
                self._wanted, self._turn = (0.0, 0.0, 0.0), 0.0
            return
        if now_s - self._fresh_s > self._loss_s():
            self._since_s = now_s
        self._fresh_s = now_s
        forward, right, down = setpoint.velocity
        c, s = math.cos(self.state.yaw), math.sin(self.state.yaw)
        self._wanted = (c * forward - s * right, s * forward + c * right, down)
        self._turn = setpoint.yaw_rate

    def _tilted(self, message: mavlink.MAVLink_message) -> Taken:
        """A tilt as the velocity it ends in: 10 m/s a radian, 10 m/s for all of the thrust."""
        w, x, y, z = message.q
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
        velocity = (-10 * pitch, 10 * roll, 10 * (0.5 - message.thrust))
        return Taken(time.monotonic_ns(), velocity, message.body_yaw_rate, "attitude")

    def _tell(self, name: str) -> None:
        if name not in self.parameters:
            return
        value, kind = self.parameters[name], mavlink.MAV_PARAM_TYPE_REAL32
        if self.kind == "px4" and name == "COM_OBL_RC_ACT":  # the bits of an int32, as PX4 sends it
            kind = mavlink.MAV_PARAM_TYPE_INT32
            value = struct.unpack("<f", struct.pack("<i", int(value)))[0]
        self.send(mavlink.MAVLink_param_value_message(name.encode(), value, kind, 1, 0))

    def _heartbeat(self) -> None:
        base = mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED
        base |= mavlink.MAV_MODE_FLAG_SAFETY_ARMED if self.state.armed else 0
        self.send(
            mavlink.MAVLink_heartbeat_message(
                mavlink.MAV_TYPE_QUADROTOR,
                self.like.autopilot,
                base,
                self.like.modes[self.state.mode],
                mavlink.MAV_STATE_ACTIVE,
                3,
            )
        )

    def _report(self, now_s: float) -> None:
        boot_ms = int(1000 * now_s) & 0xFFFFFFFF
        yaw = (self.state.yaw + math.pi) % (2 * math.pi) - math.pi
        self.send(mavlink.MAVLink_attitude_message(boot_ms, 0.0, 0.0, yaw, 0.0, 0.0, 0.0))
        self.send(
            mavlink.MAVLink_local_position_ned_message(
                boot_ms, *self.state.position, *self.state.velocity
            )
        )
