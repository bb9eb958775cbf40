"""What the autopilot says of itself: alive, armed, in which mode, where; and its parameters."""

from __future__ import annotations

import math
import struct
import time

from pymavlink.dialects.v20 import common as mavlink

from jepa_edge.runtimes.mavlink.link import Link
from jepa_edge.runtimes.safety import Pose, Vehicle

PX4, ARDUPILOT = mavlink.MAV_AUTOPILOT_PX4, mavlink.MAV_AUTOPILOT_ARDUPILOTMEGA
NAMES = {PX4: "px4", ARDUPILOT: "ardupilot"}
PX4_OFFBOARD = 6
"""PX4's main mode, bits 16 to 23 of custom_mode (px4_custom_mode.h)."""
COPTER_GUIDED, PLANE_GUIDED, ROVER_GUIDED = 4, 15, 15
ROVERS = (mavlink.MAV_TYPE_GROUND_ROVER, mavlink.MAV_TYPE_SURFACE_BOAT)
WANTED_US = {
    mavlink.MAVLINK_MSG_ID_HEARTBEAT: 200_000,
    mavlink.MAVLINK_MSG_ID_SYS_STATUS: 1_000_000,
    mavlink.MAVLINK_MSG_ID_ATTITUDE: 50_000,
    mavlink.MAVLINK_MSG_ID_LOCAL_POSITION_NED: 50_000,
}
"""How often we ask for what we need; the heartbeat tells of the pilot's mode switch."""
INTEGERS = {
    mavlink.MAV_PARAM_TYPE_UINT8: "<I",
    mavlink.MAV_PARAM_TYPE_INT8: "<i",
    mavlink.MAV_PARAM_TYPE_UINT16: "<I",
    mavlink.MAV_PARAM_TYPE_INT16: "<i",
    mavlink.MAV_PARAM_TYPE_UINT32: "<I",
    mavlink.MAV_PARAM_TYPE_INT32: "<i",
}


class Autopilot:
    """The vehicle at the other end of `link`: only the messages of its autopilot count."""

    def __init__(self, link: Link, system_id: int, kind: str = "auto") -> None:
        self.link, self.system_id = link, system_id
        self.known_kind = {name: number for number, name in NAMES.items()}.get(kind)
        self.kind: int | None = None
        self.parameters: dict[str, float] = {}
        self.battery_pct: int | None = None
        self._heartbeat: mavlink.MAVLink_message | None = None
        self._heard_ns = 0
        self._yaw: float | None = None
        self._pose: Pose | None = None

    @property
    def name(self) -> str:
        """px4, ardupilot, or how MAVLink numbers another one; empty before the first heartbeat."""
        return "" if self.kind is None else NAMES.get(self.kind, f"autopilot {self.kind}")

    def hear(self, message: mavlink.MAVLink_message) -> None:
        """Takes one message; those of other systems and components are not the autopilot's."""
        origin = (message.get_srcSystem(), message.get_srcComponent())
        if origin != (self.system_id, mavlink.MAV_COMP_ID_AUTOPILOT1):
            return
        match message.get_type():
            case "HEARTBEAT" if message.autopilot != mavlink.MAV_AUTOPILOT_INVALID:
                self._heartbeat, self._heard_ns = message, time.monotonic_ns()
                self.kind = self.known_kind or message.autopilot
                self.link.wire.trust()
            case "SYS_STATUS":
                left = message.battery_remaining  # -1: the autopilot does not know
                self.battery_pct = left if 0 <= left <= 100 else None
            case "ATTITUDE":
                self._yaw = message.yaw
            case "LOCAL_POSITION_NED" if self._yaw is not None:
                self._pose = Pose(
                    north_m=message.x,
                    east_m=message.y,
                    down_m=message.z,
                    yaw_rad=self._yaw,
                    at_ns=time.monotonic_ns(),
                )
            case "PARAM_VALUE":
                self.parameters[message.param_id] = self._value(message)

    def vehicle(self) -> Vehicle | None:
        """What is known now; None before the first heartbeat."""
        beat = self._heartbeat
        if beat is None:
            return None
        return Vehicle(
            heard_ns=self._heard_ns,
            armed=bool(beat.base_mode & mavlink.MAV_MODE_FLAG_SAFETY_ARMED),
            external=self._external(beat),
            needs_stream=self.kind == PX4,
            pose=self._pose,
        )

    @property
    def yaw_rad(self) -> float:
        """The heading, 0 while unknown."""
        return self._yaw or 0.0

    def ask_for_streams(self) -> None:
        """Asks for heartbeat, battery, attitude and position at the rates we need."""
        for number, interval_us in WANTED_US.items():
            self.link.send(
                mavlink.MAVLink_command_long_message(
                    self.system_id,
                    mavlink.MAV_COMP_ID_AUTOPILOT1,
                    mavlink.MAV_CMD_SET_MESSAGE_INTERVAL,
                    0,
                    *(number, interval_us, 0, 0, 0, 0, 0),
                )
            )

    def ask_for_parameter(self, name: str) -> None:
        """Asks once; the answer comes as a message, or not at all."""
        self.link.send(
            mavlink.MAVLink_param_request_read_message(
                self.system_id, mavlink.MAV_COMP_ID_AUTOPILOT1, name.encode(), -1
            )
        )

    def _external(self, beat: mavlink.MAVLink_message) -> bool:
        if not beat.base_mode & mavlink.MAV_MODE_FLAG_CUSTOM_MODE_ENABLED:
            return False
        if self.kind == PX4:
            return bool(beat.custom_mode >> 16 & 0xFF == PX4_OFFBOARD)
        if self.kind != ARDUPILOT:
            return False
        if beat.type in ROVERS:
            return bool(beat.custom_mode == ROVER_GUIDED)
        plane = beat.type == mavlink.MAV_TYPE_FIXED_WING
        return bool(beat.custom_mode == (PLANE_GUIDED if plane else COPTER_GUIDED))

    def _value(self, message: mavlink.MAVLink_message) -> float:
        """PX4 puts the bits of an integer into the float, ArduPilot its value."""
        if self.kind != PX4 or message.param_type not in INTEGERS:
            return float(message.param_value)
        bits = struct.pack("<f", message.param_value)
        value = float(struct.unpack(INTEGERS[message.param_type], bits)[0])
        return value if math.isfinite(value) else math.nan
