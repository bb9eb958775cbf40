"""What the guard orders, decision by decision: at each limit, and one step behind it."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.runtimes.safety import (
    STILL,
    Envelope,
    Guard,
    GuardLimits,
    Order,
    Setpoint,
    Vehicle,
    WatchLimits,
    Wish,
)
from tests.runtimes.envelopes import ENVELOPE, FENCED, inside, pose

MS = 1_000_000
S = 1000 * MS
replaced = msgspec.structs.replace


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
