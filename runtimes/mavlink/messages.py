"""The MAVLink messages we send (https://mavlink.io/en/messages/common.html)."""

from __future__ import annotations

import math

from pymavlink.dialects.v20 import common as mavlink

from jepa_edge.runtimes.mavlink.config import VehicleConfig
from jepa_edge.runtimes.safety import Order, Setpoint

VELOCITY_AND_YAW_RATE = (
    mavlink.POSITION_TARGET_TYPEMASK_X_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_Y_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_Z_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_AX_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_AY_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_AZ_IGNORE
    | mavlink.POSITION_TARGET_TYPEMASK_YAW_IGNORE
)
"""PX4 and ArduPilot both take these in MAV_FRAME_BODY_NED: turned by the heading, not tilted."""
RATES_IGNORED = (
    mavlink.ATTITUDE_TARGET_TYPEMASK_BODY_ROLL_RATE_IGNORE
    | mavlink.ATTITUDE_TARGET_TYPEMASK_BODY_PITCH_RATE_IGNORE
)
COMMANDED = {
    "go": mavlink.MAV_STATE_ACTIVE,
    "brake": mavlink.MAV_STATE_CRITICAL,
    "standby": mavlink.MAV_STATE_STANDBY,
    "silent": mavlink.MAV_STATE_STANDBY,
}


def setpoint_message(
    order: Order, vehicle: VehicleConfig, boot_ms: int, yaw_rad: float
) -> mavlink.MAVLink_message:
    """The setpoint of `order`. A brake is zero velocity in either kind of steering."""
    if vehicle.setpoint == "attitude" and order.kind == "go":
        return _attitude(order.setpoint, vehicle, boot_ms, yaw_rad)
    point = order.setpoint
    return mavlink.MAVLink_set_position_target_local_ned_message(
        boot_ms & 0xFFFFFFFF,
        vehicle.system_id,
        mavlink.MAV_COMP_ID_AUTOPILOT1,
        mavlink.MAV_FRAME_BODY_NED,
        VELOCITY_AND_YAW_RATE,
        *(0.0, 0.0, 0.0),
        *(point.forward_m_s, point.right_m_s, point.down_m_s),
        *(0.0, 0.0, 0.0),
        0.0,
        point.yaw_rate_rad_s,
    )


def _attitude(
    point: Setpoint, vehicle: VehicleConfig, boot_ms: int, yaw_rad: float
) -> mavlink.MAVLink_message:
    """Nose down to go forward: tilt in the share of the envelope's speed that is wanted."""
    envelope = vehicle.envelope
    pitch = -vehicle.tilt_rad * point.forward_m_s / envelope.speed_m_s
    roll = vehicle.tilt_rad * point.right_m_s / envelope.speed_m_s
    thrust = vehicle.hover_thrust - vehicle.climb_thrust * point.down_m_s / envelope.climb_m_s
    return mavlink.MAVLink_set_attitude_target_message(
        boot_ms & 0xFFFFFFFF,
        vehicle.system_id,
        mavlink.MAV_COMP_ID_AUTOPILOT1,
        RATES_IGNORED,
        quaternion(roll, pitch, yaw_rad),
        *(0.0, 0.0, point.yaw_rate_rad_s),
        thrust,
    )


def quaternion(roll: float, pitch: float, yaw: float) -> list[float]:
    """Of a ZYX rotation, as w, x, y, z."""
    cr, sr = math.cos(roll / 2), math.sin(roll / 2)
    cp, sp = math.cos(pitch / 2), math.sin(pitch / 2)
    cy, sy = math.cos(yaw / 2), math.sin(yaw / 2)
    return [
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    ]


def heartbeat_message(kind: str) -> mavlink.MAVLink_message:
    """An onboard controller, no autopilot; its state tells whether it steers."""
    return mavlink.MAVLink_heartbeat_message(
        mavlink.MAV_TYPE_ONBOARD_CONTROLLER,
        mavlink.MAV_AUTOPILOT_INVALID,
        0,
        0,
        COMMANDED[kind],
        3,
    )


def status_message(kind: str, reason: str) -> mavlink.MAVLink_message:
    """What the pilot reads on the ground station: at most 50 characters."""
    severe = mavlink.MAV_SEVERITY_WARNING if kind == "brake" else mavlink.MAV_SEVERITY_INFO
    text = f"jepa-edge {kind}: {reason}" if reason else f"jepa-edge {kind}"
    return mavlink.MAVLink_statustext_message(severe, text.encode("ascii", "replace")[:50])
