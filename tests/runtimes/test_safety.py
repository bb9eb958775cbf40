"""The safety module, decision by decision: at each limit, one step before it and one behind it."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.safety import (
    STILL,
    Envelope,
    Fence,
    Guard,
    GuardLimits,
    Order,
    Pose,
    Setpoint,
    Vehicle,
    Watchdog,
    WatchLimits,
    Wish,
    arming_refusal,
    fenced,
    limited,
    too_old,
    unsafe_output,
)
from jepa_edge.runtimes.sources import StepData

MS = 1_000_000
S = 1000 * MS
replaced = msgspec.structs.replace


def step(at_s=0.0, video=0.0, audio=None, fault=""):
    """Two frames of one value each (or one for both); sound that is noise unless it is a number."""
    shown = np.empty((1, 3, 2, 4, 4), np.float32)
    shown[:] = np.reshape(np.broadcast_to(video, 2), (1, 1, 2, 1, 1))
    heard = np.random.default_rng(0).random((1, 1, 8, 20), np.float32)
    if audio is not None:
        heard[:] = audio
    return StepData(index=0, captured_ns=round(at_s * S), video=shown, audio=heard, fault=fault)


# What the model is given


def test_a_step_that_is_well_is_not_refused():
    watch = Watchdog(WatchLimits(frozen_after_s=0.4, silent_after_s=0.4))
    assert [watch.refusal(step(0.2 * k, video=k)) for k in range(9)] == [""] * 9


def test_a_fault_and_what_is_not_finite_are_refused():
    assert Watchdog().refusal(step(fault="camera gives no frame")) == "camera gives no frame"
    assert Watchdog().refusal(step(video=np.nan)) == "video is not finite"
    assert Watchdog().refusal(step(video=(0.0, np.nan))) == "video is not finite"
    assert Watchdog().refusal(step(audio=np.inf)) == "audio is not finite"
    senseless = replaced(step(), video=None, audio=None)
    watch = Watchdog(WatchLimits(frozen_after_s=0.1, silent_after_s=0.1))
    assert [watch.refusal(replaced(senseless, captured_ns=k * S)) for k in (1, 2)] == ["", ""]


def test_a_picture_frozen_to_the_last_bit_is_refused_from_its_limit_on():
    watch = Watchdog(WatchLimits(frozen_after_s=0.4))
    shown = [1, 2, 2, 2, 2, (2, 3), (3, 2), 2, 2]
    refused = [watch.refusal(step(0.2 * k, video=v)) for k, v in enumerate(shown)]
    said = [reason != "" for reason in refused]
    assert said == [False, False, False, True, True, False, False, False, True]
    assert refused[3] == "camera shows one frozen picture for 0.4 s"
    assert refused[4] == "camera shows one frozen picture for 0.6 s"


def test_one_frame_that_moves_is_life_whichever_of_the_two():
    for moved in ((0, 1), (1, 0)):
        watch = Watchdog(WatchLimits(frozen_after_s=0.2))
        assert watch.refusal(step(10.0, video=0)) == ""
        assert watch.refusal(step(10.2, video=moved)) == ""


def test_noise_in_one_pixel_is_a_living_picture():
    watch = Watchdog(WatchLimits(frozen_after_s=0.2))
    for k in range(5):
        shown = step(0.2 * k)
        shown.video[0, 0, 0, 0, 0] = 1e-6 * k
        assert watch.refusal(shown) == ""


def test_a_still_picture_is_no_fault_where_no_limit_is_set():
    watch = Watchdog()
    assert [watch.refusal(step(100.0 * k, audio=0.0)) for k in range(5)] == [""] * 5


def test_digital_silence_is_refused_from_its_limit_on_and_any_sound_ends_it():
    watch = Watchdog(WatchLimits(silent_after_s=1.0))
    loud = [watch.refusal(step(5.0 + k, audio=0.0 if k in (0, 1, 3) else None)) for k in range(5)]
    assert loud == ["", "microphone gives digital silence for 1.0 s", "",
                    "microphone gives digital silence for 1.0 s", ""]  # fmt: skip


def test_a_microphone_silent_from_the_first_moment_is_given_the_same_time():
    watch = Watchdog(WatchLimits(silent_after_s=1.0))
    said = [watch.refusal(step(50 + 0.5 * k, audio=-3.5)) != "" for k in range(4)]
    assert said == [False, False, True, True]


def test_what_the_model_gives_must_be_finite_and_young():
    good, bad = np.zeros(3, np.float32), np.array([0, np.nan, 0], np.float32)
    assert unsafe_output(good, good) == unsafe_output(None, None) == ""
    assert unsafe_output(bad, good) == "latents not finite"
    assert unsafe_output(good, bad) == "prediction not finite"
    assert too_old(100.0, 100.0) == ""
    assert too_old(100.1, 100.0) == "data is 100 ms old, the limit is 100"


def test_arming_needs_something_that_moves_and_something_that_acts():
    assert arming_refusal(armed=False, moves=True, plans=False) == ""
    assert arming_refusal(armed=False, moves=False, plans=True) == ""
    assert arming_refusal(armed=True, moves=True, plans=True) == ""
    still = "--arm is for controllers that move something; this one does not"
    aimless = "--arm needs actions: give a --goal, and a bundle with a rollout graph"
    assert arming_refusal(armed=True, moves=False, plans=True) == still
    assert arming_refusal(armed=True, moves=True, plans=False) == aimless


# The envelope

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


FENCED = replaced(
    ENVELOPE, speed_m_s=9.0, climb_m_s=9.0, fence=Fence(radius_m=10.0, floor_m=2.0, ceiling_m=6.0)
)


def pose(north=0.0, east=0.0, altitude=4.0, yaw=0.0, at_ns=0):
    return Pose(north_m=north, east_m=east, down_m=-altitude, yaw_rad=yaw, at_ns=at_ns)


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


# What a vehicle is given


def test_the_defaults_are_the_careful_ones():
    """A looser default must be a decision: it changes this test."""
    assert msgspec.structs.astuple(Envelope()) == (1.5, 0.7, 0.8, 2.0, 2.0, None)
    assert msgspec.structs.astuple(GuardLimits()) == (100, 300, 1000, 2500, 500, 200, 3.0)
    assert msgspec.structs.astuple(WatchLimits()) == (0, 0)


def test_one_nanosecond_behind_a_limit_is_behind_it():
    for late_ns, kind in ((0, "go"), (1, "brake")):
        guard, now_ns = Guard(LIMITS, ENVELOPE, allowed=True), 50 * S
        wish = Wish(setpoint=FORWARD, hold="", made_ns=now_ns, captured_ns=now_ns)
        vehicle = Vehicle(heard_ns=now_ns, armed=True, external=True, needs_stream=True)
        order = guard.decide(now_ns, wish, now_ns - 100 * MS - late_ns, vehicle)
        assert order.kind == kind


LIMITS = GuardLimits(
    beat_ms=100, wish_ms=300, data_ms=600, vehicle_ms=2000, pose_ms=500, steady_ms=200, brake_s=2.0
)
FORWARD = Setpoint(forward_m_s=1.0)


class Flight:
    """A guard and everything around it being well; fields are made bad one at a time."""

    def __init__(self, envelope=ENVELOPE, allowed=True, limits=LIMITS):
        self.guard = Guard(limits, envelope, allowed=allowed)
        self.now_ns = 100 * S
        self.wish = Wish(setpoint=FORWARD, hold="", made_ns=0, captured_ns=0)
        self.wish_age = self.data_age = self.beat_age = self.heard_age = self.pose_age = 0
        self.vehicle = Vehicle(
            heard_ns=0, armed=True, external=True, needs_stream=True, pose=pose()
        )

    def decide(self, after_ms=50):
        self.now_ns += after_ms * MS
        now, at, wish = self.now_ns, self.vehicle.pose, self.wish
        if wish is not None:
            wish = replaced(
                wish, made_ns=now - self.wish_age * MS, captured_ns=now - self.data_age * MS
            )
        if at is not None:
            at = replaced(at, at_ns=now - self.pose_age * MS)
        vehicle = replaced(self.vehicle, heard_ns=now - self.heard_age * MS, pose=at)
        return self.guard.decide(now, wish, now - self.beat_age * MS, vehicle)

    def kinds(self, count, after_ms=50):
        return [self.decide(after_ms).kind for _ in range(count)]


def test_all_well_is_go_within_the_envelope_from_standing():
    flight = Flight()
    orders = [flight.decide() for _ in range(20)]
    assert {order.kind for order in orders} == {"go"}
    assert {order.reason for order in orders} == {""}
    speeds = [order.setpoint.forward_m_s for order in orders]
    assert speeds[0] == pytest.approx(0.2)  # 2 m/s2 for at most 0.1 s, however long ago it began
    assert speeds[1] == pytest.approx(0.3)
    assert speeds[-1] == pytest.approx(1.0)
    assert flight.decide(after_ms=0).kind == "go"
    flight.now_ns -= 10 * MS  # an order "before" the last one changes nothing
    assert flight.decide(after_ms=0).setpoint == flight.guard._last


def test_a_late_order_changes_no_more_than_one_in_time():
    flight = Flight()
    assert flight.decide(after_ms=5000).setpoint.forward_m_s == pytest.approx(0.2)
    assert flight.decide(after_ms=250).setpoint.forward_m_s == pytest.approx(0.4)


FAULTS = [
    ("beat_age", 100, 101, "the runtime shows no sign of life"),
    ("heard_age", 2000, 2001, "the autopilot is silent"),
    ("wish_age", 300, 301, "no new action in time"),
    ("data_age", 600, 601, "the data behind the action is too old"),
]


@pytest.mark.parametrize(("name", "good", "bad", "reason"), FAULTS)
def test_each_age_is_good_at_its_limit_and_a_brake_behind_it(name, good, bad, reason):
    flight = Flight()
    setattr(flight, name, good)
    assert flight.decide().kind == "go"
    setattr(flight, name, bad)
    assert flight.decide() == Order(kind="brake", setpoint=STILL, reason=reason)
    setattr(flight, name, -1)  # from the future: as bad
    assert flight.decide() == Order(kind="brake", setpoint=STILL, reason=reason)


@pytest.mark.parametrize("name", Setpoint.__struct_fields__)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_action_that_is_not_finite_is_a_brake(name, value):
    flight = Flight()
    flight.decide()
    flight.wish = replaced(flight.wish, setpoint=replaced(FORWARD, **{name: value}))
    assert flight.decide() == Order(kind="brake", reason="the action is not finite")


def test_a_hold_and_no_wish_at_all_are_brakes():
    flight = Flight()
    flight.wish = None
    assert flight.decide() == Order(kind="brake", reason="no action yet")
    flight.wish = Wish(setpoint=FORWARD, hold="video is not finite", made_ns=0, captured_ns=0)
    assert flight.decide() == Order(kind="brake", reason="video is not finite")


def test_the_most_basic_fault_is_named_first():
    flight = Flight()
    flight.wish = Wish(setpoint=FORWARD, hold="held", made_ns=0, captured_ns=0)
    flight.wish_age, flight.beat_age, flight.heard_age = 999, 999, 9999
    assert flight.decide().reason == "the runtime shows no sign of life"
    flight.guard.paused = True
    assert flight.decide().reason == "paused by the ground station"


def test_it_brakes_first_then_falls_silent_and_comes_back_by_itself():
    flight = Flight()
    assert flight.kinds(20) == ["go"] * 20
    flight.beat_age = 101
    assert flight.kinds(40) == ["brake"] * 40
    assert flight.kinds(5) == ["silent"] * 5
    assert flight.decide() == Order(kind="silent", reason="the runtime shows no sign of life")
    flight.beat_age = 0
    back = [flight.decide() for _ in range(5)]
    assert [order.kind for order in back] == ["silent"] * 3 + ["go"] * 2
    assert back[3].setpoint.forward_m_s == pytest.approx(0.1)  # from standing: no old action
    flight.beat_age = 101  # and a new fault gets its whole brake again
    assert flight.kinds(40) == ["brake"] * 40
    assert flight.decide().kind == "silent"


def test_a_fault_that_comes_and_goes_is_one_brake():
    flight = Flight()
    flight.decide()
    for _ in range(10):
        flight.wish_age = 301
        assert flight.decide().kind == "brake"
        flight.wish_age = 0
        assert flight.decide().reason == "no new action in time"
    assert flight.kinds(2) == ["brake"] * 2
    assert flight.decide().kind == "go"
    assert flight.decide().reason == ""


def test_a_fence_needs_a_position_that_is_known_and_new():
    flight = Flight(envelope=FENCED)
    assert flight.decide().kind == "go"
    flight.pose_age = 500
    assert flight.decide().kind == "go"
    lost = Order(kind="brake", reason="the position is not known, and there is a fence")
    flight.pose_age = 501
    assert flight.decide() == lost
    flight.pose_age = 0
    flight.vehicle = replaced(flight.vehicle, pose=pose(north=math.nan))
    assert flight.decide() == lost
    flight.vehicle = replaced(flight.vehicle, pose=None)
    assert flight.decide() == lost


def test_without_a_fence_nobody_asks_where_it_is():
    flight = Flight()
    flight.vehicle = replaced(flight.vehicle, pose=None)
    assert flight.decide().kind == "go"
    flight.vehicle = replaced(flight.vehicle, pose=pose())
    flight.pose_age = 9999
    assert flight.decide().kind == "go"


def test_a_go_stays_in_the_fence():
    flight = Flight(envelope=FENCED)
    flight.vehicle = replaced(flight.vehicle, pose=pose(north=10.0))
    assert [flight.decide().setpoint for _ in range(5)] == [STILL] * 5
    flight.vehicle = replaced(flight.vehicle, pose=pose(north=10.0, yaw=math.pi))
    assert flight.decide().setpoint.forward_m_s > 0  # forward is the way back


def test_a_dry_run_is_silent_whatever_happens():
    flight = Flight(allowed=False)
    assert flight.decide() == Order(kind="silent", reason="dry run: nothing moves without --arm")
    flight.beat_age = 999
    flight.vehicle = replaced(flight.vehicle, armed=False)
    assert flight.decide() == Order(kind="silent", reason="dry run: nothing moves without --arm")


READY = "ready: waiting for the pilot to arm and choose the mode"


@pytest.mark.parametrize(("armed", "external"), [(False, False), (True, False), (False, True)])
def test_before_the_pilot_gives_the_vehicle_only_px4_gets_its_stream_of_zeros(armed, external):
    flight = Flight()
    flight.vehicle = replaced(flight.vehicle, armed=armed, external=external)
    assert flight.decide() == Order(kind="standby", setpoint=STILL, reason=READY)
    flight.beat_age = 101  # nothing to stand by for
    assert flight.decide() == Order(kind="silent", reason="the runtime shows no sign of life")
    flight.beat_age = 0
    assert flight.decide().kind == "standby"
    flight.vehicle = replaced(flight.vehicle, needs_stream=False)
    assert flight.decide() == Order(kind="silent", reason=READY)


def test_when_the_pilot_takes_over_it_is_silent_until_the_vehicle_is_given_back():
    flight = Flight()
    assert flight.kinds(20)[-1] == "go"
    ours = flight.vehicle
    flight.vehicle = replaced(ours, external=False)
    taken = Order(kind="silent", reason="the pilot has taken over")
    assert [flight.decide() for _ in range(50)] == [taken] * 50
    flight.beat_age = 101
    assert flight.decide() == taken
    flight.beat_age = 0
    flight.vehicle = ours  # given back (ArduPilot, where no stream is needed for that)
    order = flight.decide()
    assert order.kind == "go"
    assert order.setpoint.forward_m_s == pytest.approx(0.1)


def test_after_landing_a_new_flight_begins():
    flight = Flight()
    flight.decide()
    flight.vehicle = replaced(flight.vehicle, external=False, armed=False)
    assert flight.decide().kind == "standby"
    flight.vehicle = replaced(flight.vehicle, armed=True)
    assert flight.decide().kind == "standby"  # armed by hand, in another mode: not yet ours


def test_the_ground_pauses_and_resumes():
    flight = Flight()
    flight.decide()
    flight.guard.paused = True
    assert flight.decide() == Order(kind="brake", reason="paused by the ground station")
    flight.guard.resume()
    assert flight.kinds(5) == ["brake"] * 3 + ["go"] * 2
    flight.vehicle = replaced(flight.vehicle, external=False)
    assert flight.decide().kind == "silent"
    flight.guard.resume()
    assert flight.decide().kind == "standby"


def test_a_brake_before_the_takeover_is_not_counted_after_it():
    flight = Flight()
    flight.decide()
    flight.beat_age = 101
    assert flight.kinds(45)[-1] == "silent"
    ours, flight.vehicle = flight.vehicle, replaced(flight.vehicle, external=False)
    flight.decide()
    flight.vehicle = ours
    assert flight.kinds(40) == ["brake"] * 40
    flight.beat_age = 0
    flight.vehicle = replaced(ours, external=False)
    flight.decide()
    flight.vehicle = ours
    assert flight.decide().kind == "go"  # the old fault is over: nothing to wait for


@given(st.data())
@settings(deadline=None, max_examples=100)
def test_whatever_comes_no_order_leaves_the_envelope_and_no_old_action_is_sent(data):
    flight = Flight(envelope=FENCED)
    ages = st.sampled_from([0, 50, 99, 100, 101, 250, 300, 301, 700, 3000, -5])
    wild = st.floats(allow_nan=True, allow_infinity=True)
    for _ in range(12):
        for name in ("wish_age", "data_age", "beat_age", "heard_age", "pose_age"):
            setattr(flight, name, data.draw(ages))
        flight.vehicle = replaced(
            flight.vehicle,
            armed=data.draw(st.booleans()),
            external=data.draw(st.booleans()),
            pose=pose(data.draw(wild), data.draw(wild), data.draw(wild), data.draw(wild)),
        )
        point = Setpoint(forward_m_s=data.draw(wild), down_m_s=data.draw(wild))
        flight.wish = replaced(flight.wish, setpoint=point, hold=data.draw(st.sampled_from("a ")))
        order = flight.decide(data.draw(st.sampled_from([0, 20, 50, 400])))
        assert inside(order.setpoint, FENCED)
        assert order.kind == "go" or order.setpoint == STILL
        if order.kind == "go":
            assert max(flight.wish_age, flight.beat_age * 3, flight.data_age / 2) <= 300
            assert flight.vehicle.armed
            assert flight.vehicle.external
