"""How a vehicle is steered: the TOML file behind ``--vehicle``, and what the sender is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.safety import Envelope, GuardLimits, Setpoint

Axis = Literal["forward", "left", "up", "yaw_rate", "none"]


class VehicleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One vehicle; every default is the careful one.

    Attributes:
        system_id: the vehicle's; ours is the same, as for every companion computer.
        component_id: ours; 191 is MAV_COMP_ID_ONBOARD_COMPUTER.
        autopilot: ``auto`` believes the heartbeat; name it for a kind that speaks as PX4 or
            ArduPilot without saying so.
        setpoint: ``velocity`` (SET_POSITION_TARGET_LOCAL_NED) or ``attitude`` (SET_ATTITUDE_TARGET:
            tilt and thrust in place of horizontal and vertical speed; it still brakes by velocity).
        rate_hz: setpoints a second. PX4 demands more than 2, ArduPilot one a second.
        actions: what each number of an action means, in order; 1.0 is the envelope's limit.
        tilt_rad: attitude for a forward or left action of 1.
        hover_thrust: thrust that holds the height, in 0 to 1; ArduPilot takes 0.5 for that.
        climb_thrust: thrust more than that for an upward action of 1.
        signing_key: file of 32 bytes, or 64 hexadecimal digits. With it, what is not signed is not
            heard, and all that is sent is signed.
        parameters_checked: False skips the pre-flight check, for autopilots without parameters.
    """

    system_id: int = 1
    component_id: int = 191
    autopilot: Literal["auto", "px4", "ardupilot"] = "auto"
    setpoint: Literal["velocity", "attitude"] = "velocity"
    rate_hz: float = 25.0
    actions: tuple[Axis, ...] = ("forward", "left", "up", "yaw_rate")
    tilt_rad: float = 0.15
    hover_thrust: float = 0.5
    climb_thrust: float = 0.1
    envelope: Envelope = Envelope()
    limits: GuardLimits | None = None
    """None: the defaults, with a wish allowed to be one step and 100 ms old."""
    signing_key: str | None = None
    parameters_checked: bool = True

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for what no autopilot would take."""
        if not 4 <= self.rate_hz <= 100:
            raise WrongUseError(f"rate_hz is {self.rate_hz}; PX4 needs at least 4 to be sure of 2")
        for name in ("system_id", "component_id"):
            if not 1 <= getattr(self, name) <= 255:
                raise WrongUseError(f"{name} must be from 1 to 255")
        if not 0 < self.tilt_rad <= 0.6:
            raise WrongUseError("tilt_rad must be above 0 and at most 0.6")
        if (
            not 0
            < self.hover_thrust - self.climb_thrust
            < self.hover_thrust + self.climb_thrust
            < 1
        ):
            raise WrongUseError("hover_thrust with or without climb_thrust must be within 0 and 1")


class SenderConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the sender process is told when it starts."""

    address: str
    vehicle: VehicleConfig
    limits: GuardLimits
    armed: bool


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's one line when its pre-flight check is over; `refused` says why not."""

    refused: str = ""
    autopilot: str = ""
    warnings: list[str] = []


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One tick as the sender gets it: an action, or why there is none."""

    action: list[float] | None
    hold: str
    captured_ns: int


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the sender does, as the runtime reads it back."""

    order: str
    reason: str
    sent: int
    autopilot: str
    mode_is_ours: bool
    vehicle_armed: bool
    heard: bool = False
    battery_pct: int | None = None


def vehicle_config(path: Path | None) -> VehicleConfig:
    """The vehicle described at `path`; the defaults for None.

    Raises `InputError` for a file that is missing or not such TOML, `WrongUseError` for its values.
    """
    if path is None:
        return VehicleConfig()
    try:
        return msgspec.toml.decode(path.read_bytes(), type=VehicleConfig)
    except OSError as error:
        raise InputError(f"vehicle file {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise InputError(f"vehicle file {path}: {error}") from error


def limits_for(vehicle: VehicleConfig, *, step_ms: float, age_limit_ms: float) -> GuardLimits:
    """The vehicle's own limits, or the defaults for a model that acts every `step_ms`."""
    if vehicle.limits is not None:
        return vehicle.limits
    return GuardLimits(wish_ms=step_ms + 100.0, data_ms=age_limit_ms)


def setpoint_from(action: list[float], vehicle: VehicleConfig) -> Setpoint:
    """What `action`, each in [-1, 1], means for this vehicle; not yet limited to its envelope.

    Raises `WrongUseError` when the model gives another number of actions than `vehicle.actions`.
    """
    if len(action) != len(vehicle.actions):
        raise WrongUseError(
            f"the model gives {len(action)} actions, the vehicle file names {len(vehicle.actions)}"
        )
    value = dict.fromkeys(("forward", "left", "up", "yaw_rate", "none"), 0.0)
    value |= dict(zip(vehicle.actions, action, strict=True))
    envelope = vehicle.envelope
    return Setpoint(
        forward_m_s=value["forward"] * envelope.speed_m_s,
        right_m_s=-value["left"] * envelope.speed_m_s,
        down_m_s=-value["up"] * envelope.climb_m_s,
        yaw_rate_rad_s=-value["yaw_rate"] * envelope.yaw_rate_rad_s,
    )
