"""An envelope, one with a fence, and poses in it: what the tests of the safety module share."""

import math

from hypothesis import strategies as st
from msgspec.structs import replace

from jepa_edge.runtimes.safety import Envelope, Fence, Pose, Setpoint

number = st.floats(-1e6, 1e6)
setpoint = st.builds(
    Setpoint, forward_m_s=number, right_m_s=number, down_m_s=number, yaw_rate_rad_s=number
)
ENVELOPE = Envelope(
    speed_m_s=1.5, climb_m_s=0.7, yaw_rate_rad_s=0.8, accel_m_s2=2.0, yaw_accel_rad_s2=4.0
)


def inside(point, envelope=ENVELOPE):
    return (
        math.hypot(point.forward_m_s, point.right_m_s) <= envelope.speed_m_s * (1 + 1e-9)
        and abs(point.down_m_s) <= envelope.climb_m_s * (1 + 1e-9)
        and abs(point.yaw_rate_rad_s) <= envelope.yaw_rate_rad_s * (1 + 1e-9)
    )


FENCED = replace(
    ENVELOPE, speed_m_s=9.0, climb_m_s=9.0, fence=Fence(radius_m=10.0, floor_m=2.0, ceiling_m=6.0)
)


def pose(north=0.0, east=0.0, altitude=4.0, yaw=0.0, at_ns=0):
    return Pose(north_m=north, east_m=east, down_m=-altitude, yaw_rad=yaw, at_ns=at_ns)
