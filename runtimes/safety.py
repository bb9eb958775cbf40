"""What must be true before anything may move; every decision about it is in this one file.

Nothing here reads a clock, a socket or a file: what is known goes in, what may be done comes out.
`Watchdog` judges what the model is given, `Guard` what a vehicle is given. Neither ever gives an
old action again: what is missing, late or strange becomes a hold. Every branch is tested, and every
mutant of this file fails a test (``tests/runtimes/test_safety_mutants.py``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, WrongUseError

if TYPE_CHECKING:  # whoever sends setpoints must not need a camera's libraries
    from jepa_edge.runtimes.sources import StepData


LONGEST_DT_S = 0.1
"""However late an order comes, the setpoint changes by no more than in this time."""


class WatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a sense may show nothing new; 0: it may for ever (a still picture is no fault)."""

    frozen_after_s: float = 0.0
    silent_after_s: float = 0.0


class Watchdog:
    """Says which steps may not be encoded: faulty, not finite, frozen, or digitally silent.

    A real camera has noise: a picture that is the same to the last bit is a dead one. So is sound
    whose features are one constant. Each is told apart from a scene at rest by exact equality.
    """

    def __init__(self, limits: WatchLimits | None = None) -> None:
        self.limits = limits or WatchLimits()
        self._shown: FloatArray | None = None
        self._moved_ns = self._heard_ns = 0

    def refusal(self, step: StepData) -> str:
        """Why `step` may not be encoded; empty if it may."""
        return unsafe_input(step) or self._frozen(step) or self._silent(step)

    def _frozen(self, step: StepData) -> str:
        if step.video is None:
            return ""
        before, self._shown = self._shown, step.video[:, :, -1:]
        if before is None or not (step.video == before).all():
            self._moved_ns = step.captured_ns
        still_s = (step.captured_ns - self._moved_ns) / 1e9
        return _stuck(still_s, self.limits.frozen_after_s, "camera shows one frozen picture")

    def _silent(self, step: StepData) -> str:
        if step.audio is None:
            return ""
        if self._heard_ns == 0 or step.audio.min() != step.audio.max():
            self._heard_ns = step.captured_ns
        silent_s = (step.captured_ns - self._heard_ns) / 1e9
        return _stuck(silent_s, self.limits.silent_after_s, "microphone gives digital silence")


def _stuck(lasted_s: float, limit_s: float, what: str) -> str:
    return f"{what} for {lasted_s:.1f} s" if 0 < limit_s <= lasted_s else ""


def unsafe_input(step: StepData) -> str:
    """Why `step` may not be encoded; empty if it may."""
    if step.fault:
        return step.fault
    for name, array in (("video", step.video), ("audio", step.audio)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} is not finite"
    return ""


def unsafe_output(pooled: FloatArray | None, future: FloatArray | None) -> str:
    """Why these latents may not be used; empty if they may."""
    for name, array in (("latents", pooled), ("prediction", future)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} not finite"
    return ""


def too_old(age_ms: float, limit_ms: float) -> str:
    """Why data of this age may not be acted on; empty if it may."""
    return f"data is {age_ms:.0f} ms old, the limit is {limit_ms:.0f}" if age_ms > limit_ms else ""


class Setpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a vehicle is to do: velocity in its own level frame (forward, right, down), turn rate.

    Down and clockwise are positive, as in MAVLink's MAV_FRAME_BODY_NED.
    """

    forward_m_s: float = 0.0
    right_m_s: float = 0.0
    down_m_s: float = 0.0
    yaw_rate_rad_s: float = 0.0


STILL = Setpoint()
"""The brake: hover where you are."""


class Pose(msgspec.Struct, frozen=True, kw_only=True):
    """Where a vehicle is, from its autopilot's origin, and the heading; `at_ns` is when."""

    north_m: float
    east_m: float
    down_m: float
    yaw_rad: float
    at_ns: int


class Fence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cylinder around the autopilot's origin (where it was switched on) that is not left."""

    radius_m: float
    floor_m: float
    ceiling_m: float

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for a fence that encloses nothing."""
        if not (self.radius_m > 0 and self.ceiling_m > self.floor_m):
            raise WrongUseError("fence: radius_m must be above 0, and ceiling_m above floor_m")


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a setpoint may be, whatever the model wishes. The defaults are a brisk walk."""

    speed_m_s: float = 1.5
    climb_m_s: float = 0.7
    yaw_rate_rad_s: float = 0.8
    accel_m_s2: float = 2.0
    yaw_accel_rad_s2: float = 2.0
    fence: Fence | None = None

    def __post_init__(self) -> None:
        """Raises `WrongUseError` unless every limit is a positive number."""
        limits = (
            self.speed_m_s,
            self.climb_m_s,
            self.yaw_rate_rad_s,
            self.accel_m_s2,
            self.yaw_accel_rad_s2,
        )
        if not all(0 < limit < math.inf for limit in limits):
            raise WrongUseError("envelope: every limit must be a finite number above 0")


def limited(wanted: Setpoint, last: Setpoint, dt_s: float, envelope: Envelope) -> Setpoint:
    """`wanted`, shortened into `envelope` and to what may change from `last` in `dt_s`.

    Directions are kept: the horizontal velocity is shortened as one vector, and so is its change.
    """
    fit = _shorter((wanted.forward_m_s, wanted.right_m_s), envelope.speed_m_s)
    down = _clamped(wanted.down_m_s, envelope.climb_m_s)
    turn = _clamped(wanted.yaw_rate_rad_s, envelope.yaw_rate_rad_s)
    change = _shorter(
        (fit[0] - last.forward_m_s, fit[1] - last.right_m_s, down - last.down_m_s),
        envelope.accel_m_s2 * dt_s,
    )
    turned = _clamped(turn - last.yaw_rate_rad_s, envelope.yaw_accel_rad_s2 * dt_s)
    return Setpoint(
        forward_m_s=last.forward_m_s + change[0],
        right_m_s=last.right_m_s + change[1],
        down_m_s=last.down_m_s + change[2],
        yaw_rate_rad_s=last.yaw_rate_rad_s + turned,
    )


def fenced(wanted: Setpoint, pose: Pose, envelope: Envelope) -> Setpoint:
    """`wanted` without what would leave the fence: slow enough to stop at it, inwards outside it.

    It may come as near as the way to stop at ``accel_m_s2`` allows: v^2 = 2 a s.
    """
    fence = envelope.fence
    if fence is None:
        return wanted
    altitude_m, distance_m = -pose.down_m, math.hypot(pose.north_m, pose.east_m)
    down = min(wanted.down_m_s, _stoppable(altitude_m - fence.floor_m, envelope))
    down = max(down, -_stoppable(fence.ceiling_m - altitude_m, envelope))
    outwards = math.atan2(pose.east_m, pose.north_m) - pose.yaw_rad
    ahead, aside = math.cos(outwards), math.sin(outwards)
    leaving_m_s = wanted.forward_m_s * ahead + wanted.right_m_s * aside
    excess = max(0.0, leaving_m_s - _stoppable(fence.radius_m - distance_m, envelope))
    return msgspec.structs.replace(
        wanted,
        forward_m_s=wanted.forward_m_s - excess * ahead,
        right_m_s=wanted.right_m_s - excess * aside,
        down_m_s=down,
    )


def _stoppable(left_m: float, envelope: Envelope) -> float:
    return math.sqrt(2 * envelope.accel_m_s2 * max(0.0, left_m))


def _clamped(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _shorter(vector: tuple[float, ...], limit: float) -> tuple[float, ...]:
    length = math.hypot(*vector)
    return vector if length <= limit else tuple(part * limit / length for part in vector)


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime last asked for; `hold` says why it asks for nothing."""

    setpoint: Setpoint
    hold: str
    made_ns: int
    captured_ns: int


class Vehicle(msgspec.Struct, frozen=True, kw_only=True):
    """What the autopilot last said of itself. `external`: its mode takes setpoints from us.

    `needs_stream`: it lets a pilot choose that mode only while setpoints come (PX4).
    """

    heard_ns: int
    armed: bool
    external: bool
    needs_stream: bool
    pose: Pose | None = None


class GuardLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old things may be, and how long to brake before going silent."""

    beat_ms: float = 100.0
    wish_ms: float = 300.0
    data_ms: float = 1000.0
    vehicle_ms: float = 2500.0
    pose_ms: float = 500.0
    steady_ms: float = 200.0
    brake_s: float = 3.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to send now: ``go`` the setpoint; ``brake`` and ``standby`` `STILL`; ``silent`` none."""

    kind: Literal["go", "brake", "standby", "silent"]
    setpoint: Setpoint = STILL
    reason: str = ""


class Guard:
    """Decides, many times a second, what a vehicle is sent. It brakes first, then falls silent.

    Silence leaves the vehicle to its autopilot's own fail-safe: whoever is not sure does not fly.
    It goes on by itself when all has been well for ``steady_ms``. Once the pilot takes the vehicle
    out of the mode, nothing is sent until it is given back, disarmed, or `resume` is called.
    """

    def __init__(self, limits: GuardLimits, envelope: Envelope, *, allowed: bool) -> None:
        self.limits, self.envelope, self.allowed = limits, envelope, allowed
        self.paused = False
        self._flown = False
        self._last, self._last_ns = STILL, 0
        self._fault, self._fault_ns = "", 0
        self._braking_ns: int | None = None

    def resume(self) -> None:
        """The ground lets us fly again, after its pause or after the pilot took over."""
        self.paused = self._flown = False

    def decide(self, now_ns: int, wish: Wish | None, beat_ns: int, vehicle: Vehicle) -> Order:
        """The order for this moment. All times are of one monotonic clock.

        Args:
            now_ns: this moment.
            wish: the newest that the runtime asked for; None before the first.
            beat_ns: when the runtime last showed that it is alive.
            vehicle: what the autopilot last said.
        """
        dt_s = min(max(now_ns - self._last_ns, 0) / 1e9, LONGEST_DT_S)
        self._last_ns = now_ns
        fault = next(self._faults(now_ns, wish, beat_ns, vehicle), "")
        if not (self.allowed and vehicle.armed and vehicle.external):
            return self._outside(fault, vehicle)
        self._flown = True
        if fault:
            self._fault, self._fault_ns = fault, now_ns
        if wish is None or (self._fault and now_ns - self._fault_ns < 1e6 * self.limits.steady_ms):
            return self._brake(now_ns)
        self._fault, self._braking_ns = "", None
        self._last = limited(wish.setpoint, self._last, dt_s, self.envelope)
        if vehicle.pose is not None:
            self._last = fenced(self._last, vehicle.pose, self.envelope)
        return Order(kind="go", setpoint=self._last)

    def _outside(self, fault: str, vehicle: Vehicle) -> Order:
        """The vehicle is not ours: silence, or the stream of `STILL` without which PX4 refuses."""
        self._last, self._braking_ns, self._fault = STILL, None, ""
        self._flown = self._flown and vehicle.armed
        if not self.allowed:
            return Order(kind="silent", reason="dry run: nothing moves without --arm")
        if self._flown:
            return Order(kind="silent", reason="the pilot has taken over")
        if fault:
            return Order(kind="silent", reason=fault)
        kind: Literal["standby", "silent"] = "standby" if vehicle.needs_stream else "silent"
        return Order(kind=kind, reason="ready: waiting for the pilot to arm and choose the mode")

    def _brake(self, now_ns: int) -> Order:
        self._last = STILL
        if self._braking_ns is None:
            self._braking_ns = now_ns
        braked_s = (now_ns - self._braking_ns) / 1e9
        kind: Literal["brake", "silent"] = "brake" if braked_s < self.limits.brake_s else "silent"
        return Order(kind=kind, reason=self._fault)

    def _faults(
        self, now_ns: int, wish: Wish | None, beat_ns: int, vehicle: Vehicle
    ) -> Iterator[str]:
        """Why nothing may be done now, most basic first; nothing if all is well."""
        limits = self.limits
        if self.paused:
            yield "paused by the ground station"
        if _stale(now_ns, beat_ns, limits.beat_ms):
            yield "the runtime shows no sign of life"
        if _stale(now_ns, vehicle.heard_ns, limits.vehicle_ms):
            yield "the autopilot is silent"
        if self.envelope.fence is not None and _lost(vehicle.pose, now_ns, limits.pose_ms):
            yield "the position is not known, and there is a fence"
        if wish is None:
            yield "no action yet"
        else:
            yield from self._wrong_with(wish, now_ns)

    def _wrong_with(self, wish: Wish, now_ns: int) -> Iterator[str]:
        if wish.hold:
            yield wish.hold
        if _stale(now_ns, wish.made_ns, self.limits.wish_ms):
            yield "no new action in time"
        if _stale(now_ns, wish.captured_ns, self.limits.data_ms):
            yield "the data behind the action is too old"
        if not _finite(wish.setpoint):
            yield "the action is not finite"


def _stale(now_ns: int, then_ns: int, limit_ms: float) -> bool:
    """Whether `then_ns` is longer ago than allowed, or, which is as bad, has yet to come."""
    return not 0 <= now_ns - then_ns <= 1e6 * limit_ms


def _lost(pose: Pose | None, now_ns: int, limit_ms: float) -> bool:
    return pose is None or not _finite(pose) or _stale(now_ns, pose.at_ns, limit_ms)


def _finite(numbers: Setpoint | Pose) -> bool:
    return all(math.isfinite(number) for number in msgspec.structs.astuple(numbers))


def arming_refusal(*, armed: bool, moves: bool, plans: bool) -> str:
    """Why a run with this ``--arm`` may not begin; empty if it may."""
    if armed and not moves:
        return "--arm is for controllers that move something; this one does not"
    if armed and not plans:
        return "--arm needs actions: give a --goal, and a bundle with a rollout graph"
    return ""
