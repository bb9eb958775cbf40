"""The envelope and the fence: no setpoint leaves them, and each limit is its own."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.safety import STILL, Envelope, Fence, Pose, Setpoint, fenced, limited
from tests.runtimes.envelopes import ENVELOPE, FENCED, inside, number, pose, setpoint

replaced = msgspec.structs.replace


@given(st.lists(setpoint, min_size=1, max_size=8), st.floats(0.0, 0.1))
@settings(deadline=None, max_examples=200)
def test_no_wish_leaves_the_envelope_nor_jumps(wishes, dt_s):
    last = STILL
    for wish in wishes:
        now = limited(wish, last, dt_s, ENVELOPE)
        assert inside(now)
        jump = math.dist(msgspec.structs.astuple(now)[:3], msgspec.structs.astuple(last)[:3])
        assert jump <= 2.0 * dt_s + 1e-9
        assert abs(now.yaw_rate_rad_s - last.yaw_rate_rad_s) <= 4.0 * dt_s + 1e-9
        last = now


def test_a_wish_inside_the_envelope_is_reached_and_kept_in_its_direction():
    wish = Setpoint(forward_m_s=3.0, right_m_s=4.0, down_m_s=-0.3, yaw_rate_rad_s=-0.2)
    last = STILL
    for _ in range(40):
        last = limited(wish, last, 0.05, ENVELOPE)
    assert msgspec.structs.astuple(last) == pytest.approx((0.9, 1.2, -0.3, -0.2))
    slow = Setpoint(forward_m_s=0.01, right_m_s=0.02, down_m_s=0.03, yaw_rate_rad_s=0.04)
    reached = limited(slow, STILL, 0.05, ENVELOPE)
    assert msgspec.structs.astuple(reached) == pytest.approx((0.01, 0.02, 0.03, 0.04))


def test_each_limit_is_its_own():
    at_once = Envelope(
        speed_m_s=1, climb_m_s=2, yaw_rate_rad_s=3, accel_m_s2=1e9, yaw_accel_rad_s2=1e9
    )
    far = Setpoint(forward_m_s=-9, right_m_s=0, down_m_s=9, yaw_rate_rad_s=9)
    got = msgspec.structs.astuple(limited(far, STILL, 1.0, at_once))
    assert got == pytest.approx((-1.0, 0.0, 2.0, 3.0))
    slowly = replaced(at_once, accel_m_s2=0.5, yaw_accel_rad_s2=0.25)
    got = limited(Setpoint(right_m_s=9, yaw_rate_rad_s=9), STILL, 1.0, slowly)
    assert (got.right_m_s, got.yaw_rate_rad_s) == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("name", Envelope.__struct_fields__[:5])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_an_envelope_without_a_limit_is_refused(name, value):
    with pytest.raises(WrongUseError, match="^envelope: every limit must .* number above 0$"):
        Envelope(**{name: value})


@pytest.mark.parametrize(
    "fence", [(0.0, 0.0, 1.0), (-1.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]
)
def test_a_fence_that_encloses_nothing_is_refused(fence):
    with pytest.raises(WrongUseError, match="^fence: .*, and ceiling_m above floor_m$"):
        Fence(radius_m=fence[0], floor_m=fence[1], ceiling_m=fence[2])
    assert Fence(radius_m=0.5, floor_m=-2.0, ceiling_m=-1.0).radius_m == 0.5


def test_inside_the_fence_a_wish_that_can_still_stop_is_as_it_was():
    wish = Setpoint(forward_m_s=1.0, right_m_s=-1.0, down_m_s=0.5, yaw_rate_rad_s=0.3)
    assert fenced(wish, pose(), FENCED) == wish
    assert fenced(wish, pose(north=99.0), ENVELOPE) == wish  # no fence


@pytest.mark.parametrize("bearing", [0.0, 1.0, 2.5, -2.0])
@pytest.mark.parametrize("yaw", [0.0, 0.7, -2.2])
def test_the_way_out_is_slowed_to_what_can_stop_and_the_rest_is_kept(bearing, yaw):
    at = pose(north=9.0 * math.cos(bearing), east=9.0 * math.sin(bearing), yaw=yaw)
    out, along = 5.0, 1.5
    ahead, aside = math.cos(bearing - yaw), math.sin(bearing - yaw)
    wish = Setpoint(
        forward_m_s=out * ahead - along * aside,
        right_m_s=out * aside + along * ahead,
        yaw_rate_rad_s=0.1,
    )
    got = fenced(wish, at, FENCED)
    assert got.forward_m_s * ahead + got.right_m_s * aside == pytest.approx(2.0)  # v^2 = 2 * 2 * 1
    assert got.right_m_s * ahead - got.forward_m_s * aside == pytest.approx(along)
    assert got.yaw_rate_rad_s == 0.1
    back = replaced(wish, forward_m_s=-out * ahead, right_m_s=-out * aside)
    assert fenced(back, at, FENCED) == back


def test_outside_the_fence_only_the_way_back_is_left():
    away = pose(north=12.0, altitude=7.0)
    got = fenced(Setpoint(forward_m_s=1.0, right_m_s=0.5, down_m_s=-1.0), away, FENCED)
    assert msgspec.structs.astuple(got) == pytest.approx((0.0, 0.5, 0.0, 0.0))
    back = Setpoint(forward_m_s=-1.0, down_m_s=1.0)
    assert fenced(back, away, FENCED) == back
    under = fenced(Setpoint(down_m_s=1.0), pose(altitude=1.0), FENCED)
    assert under.down_m_s == 0.0
    assert fenced(Setpoint(down_m_s=-1.0), pose(altitude=1.0), FENCED).down_m_s == -1.0


def test_height_is_kept_between_floor_and_ceiling_with_room_to_stop():
    assert fenced(Setpoint(down_m_s=5.0), pose(altitude=3.0), FENCED).down_m_s == pytest.approx(2.0)
    assert fenced(Setpoint(down_m_s=-5.0), pose(altitude=5.0), FENCED).down_m_s == pytest.approx(
        -2.0
    )


@given(setpoint, number, number, number, st.floats(-10, 10))
@settings(deadline=None, max_examples=200)
def test_the_fence_only_ever_slows(wish, north, east, altitude, yaw):
    got = fenced(wish, pose(north, east, altitude, yaw), FENCED)
    scale = 1 + math.hypot(wish.forward_m_s, wish.right_m_s)
    assert math.hypot(got.forward_m_s, got.right_m_s) <= scale * (1 + 1e-9)
    assert abs(got.down_m_s) <= abs(wish.down_m_s)


@given(st.lists(st.tuples(number, number, number), min_size=1, max_size=5), st.floats(-3, 3))
@settings(deadline=None, max_examples=50)
def test_a_vehicle_that_obeys_never_leaves_the_fence(wishes, yaw):
    """20 orders a second to a vehicle that does as told; the wish changes every half second."""
    place, last, dt_s = np.array([0.0, 0.0, -4.0]), STILL, 0.05
    for forward, right, down in wishes:
        wish = Setpoint(forward_m_s=forward, right_m_s=right, down_m_s=down)
        for _ in range(40):
            at = Pose(north_m=place[0], east_m=place[1], down_m=place[2], yaw_rad=yaw, at_ns=0)
            last = fenced(limited(wish, last, dt_s, FENCED), at, FENCED)
            c, s = math.cos(yaw), math.sin(yaw)
            turned = (
                c * last.forward_m_s - s * last.right_m_s,
                s * last.forward_m_s + c * last.right_m_s,
                last.down_m_s,
            )
            place = place + dt_s * np.array(turned)
            assert math.hypot(place[0], place[1]) < 10.3
            assert 1.7 < -place[2] < 6.3
