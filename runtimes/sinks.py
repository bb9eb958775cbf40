"""Where ticks go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import msgspec

from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.safety import arming_refusal
from jepa_edge.runtimes.service import Autopilot

if TYPE_CHECKING:
    from jepa_edge.runtimes.mavlink.sink import MavlinkSink
    from jepa_edge.runtimes.ros import RosTopics
    from jepa_edge.runtimes.shared import SharedTicks, SocketTicks

MOVING = ("mavlink",)
CLOSED = ("mavlink", "ros2", "shm", "unix")
"""What must be told that a run has ended."""
KNOWN = "stdout, file:PATH, none, mavlink:ADDRESS, ros2:PREFIX, shm:NAME, unix:PATH, gym"


class SinkConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets the ticks, and what it must know of the model that makes them.

    `armed`: it may move things. `action_dim` 0: the model does not act.
    """

    uri: str
    armed: bool = False
    vehicle: Path | None = None
    step_ms: float = 200.0
    age_limit_ms: float = 1000.0
    action_dim: int = 0


class Sink(Protocol):
    """Takes each tick at once."""

    def take(self, tick: Tick) -> bool:
        """Hands over one tick; False when nobody listens any more."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def take(self, tick: Tick) -> bool:
        """Writes the tick and flushes, so that a reader has it at once."""
        try:
            self.out.write(msgspec.json.encode(tick).decode() + "\n")
            self.out.flush()
        except BrokenPipeError:
            if self.out is sys.stdout:  # or Python complains when it flushes at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return False
        return True


class Nowhere:
    """Takes and forgets."""

    def take(self, tick: Tick) -> bool:  # noqa: ARG002  (a sink)
        """Does nothing with the tick."""
        return True


def autopilot_of(sink: Sink) -> Autopilot | None:
    """What the vehicle behind `sink` last said; None where there is no vehicle."""
    from jepa_edge.runtimes.mavlink.sink import MavlinkSink

    if not isinstance(sink, MavlinkSink):
        return None
    status = sink.status()
    if status is None or not status.heard:
        return Autopilot(linked=False)
    return Autopilot(linked=True, armed=status.vehicle_armed, battery_pct=status.battery_pct)


@contextmanager
def open_sink(config: SinkConfig, world: Sink | None = None) -> Iterator[Sink]:
    """The sink at ``config.uri``, one of `KNOWN`; ``gym`` is the simulated `world` that is seen.

    A file has its name only when the run has ended; until then it is ``PATH.part``.

    Raises:
        WrongUseError: another URI, a file that cannot be written, or ``--arm`` where nothing moves.
        CheckFailedError: the pre-flight check of a vehicle failed.
    """
    kind, _, rest = config.uri.partition(":")
    refusal = arming_refusal(armed=config.armed, moves=kind in MOVING, plans=config.action_dim > 0)
    if refusal:
        raise WrongUseError(refusal)
    if kind == "file":
        with _file(Path(rest)) as out:
            yield JsonLines(out)
    elif kind in CLOSED:
        with closing(_closed(kind, rest, config)) as sink:
            yield sink
    else:
        yield _plain(config.uri, world)


def _plain(uri: str, world: Sink | None) -> Sink:
    if uri == "stdout":
        return JsonLines(sys.stdout)
    if uri == "none":
        return Nowhere()
    if uri != "gym":
        raise WrongUseError(f"unknown controller {uri!r}; known: {KNOWN}")
    if world is None:
        raise WrongUseError("--controller gym acts in the world of --camera gym:NAME: give both")
    return world


@contextmanager
def _file(path: Path) -> Iterator[TextIO]:
    part = path.with_name(path.name + ".part")
    try:
        out = part.open("w")
    except OSError as error:
        raise WrongUseError(f"controller file:{path}: cannot write there: {error}") from error
    with out:
        yield out
    part.replace(path)


def _closed(
    kind: str, rest: str, config: SinkConfig
) -> MavlinkSink | RosTopics | SharedTicks | SocketTicks:
    if kind == "mavlink":
        return _mavlink(rest, config)
    if kind == "ros2":
        from jepa_edge.runtimes.ros import RosTopics

        return RosTopics(rest)
    from jepa_edge.runtimes.shared import SharedTicks, SocketTicks

    return SharedTicks(rest) if kind == "shm" else SocketTicks(Path(rest))


def _mavlink(address: str, config: SinkConfig) -> MavlinkSink:
    from jepa_edge.runtimes.mavlink.config import SenderConfig, limits_for, vehicle_config
    from jepa_edge.runtimes.mavlink.sink import MavlinkSink

    vehicle = vehicle_config(config.vehicle)
    if config.armed and len(vehicle.actions) != config.action_dim:
        raise WrongUseError(
            f"the model gives {config.action_dim} actions, the vehicle takes "
            f"{len(vehicle.actions)}: name each in a --vehicle file, as actions = [...]"
        )
    limits = limits_for(vehicle, step_ms=config.step_ms, age_limit_ms=config.age_limit_ms)
    return MavlinkSink(
        SenderConfig(address=address, vehicle=vehicle, limits=limits, armed=config.armed)
    )
