"""The runtime's end of the MAVLink sink: it hands commands over and looks after the sender."""

from __future__ import annotations

import select
import subprocess
import sys
import time

import msgspec

from jepa_edge.contract import CheckFailedError, MissingExtraError
from jepa_edge.front import stderr
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.mavlink.channel import Channel
from jepa_edge.runtimes.mavlink.config import Command, Ready, SenderConfig, Status

BEAT_S = 0.02
STARTED_WITHIN_S = 60.0
"""It only has to import pymavlink, but a throttled or emulated board takes its time."""
STALLED_S, DRY_STALLED_S = 0.3, 5.0
"""A sender that has not reported for so long is stopped for good and replaced. In a dry run nothing
moves: there a busy board is no danger, and a new sender would only make it busier."""


class MavlinkSink:
    """Gives each tick's action to a sender process of its own, and replaces one that fails.

    A tick without an action is a hold: the sender brakes, and then leaves the vehicle to its
    autopilot.
    """

    def __init__(self, config: SenderConfig) -> None:
        try:
            import pymavlink  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("pymavlink", "mavlink") from error
        self.config = config
        self.replaced = 0
        self._told = ""
        self.channel = Channel.new()
        self.channel.beat.strike()
        self.channel.beat.keep(BEAT_S)
        try:
            self.ready = self._begin()
        except BaseException:
            self.channel.close()
            raise

    def take(self, tick: Tick) -> bool:
        """Hands the action over at once, or the reason why there is none."""
        why = tick.reason or ("" if tick.action is not None else f"{tick.state}: no action")
        self.channel.command(Command(action=tick.action, hold=why, captured_ns=tick.captured_ns))
        self._look_after()
        return True

    def status(self) -> Status | None:
        """What the sender last reported."""
        last = self.channel.status()
        return last[1] if last else None

    def close(self) -> None:
        """Brakes the vehicle, and waits until the sender has gone silent and ended."""
        if self._sender.stdin:
            self._sender.stdin.close()
        try:
            self._sender.wait(self.config.limits.brake_s + 2.0)
        except subprocess.TimeoutExpired:
            self._sender.kill()
            self._sender.wait()
        self.channel.close()

    def _begin(self) -> Ready:
        """Starts a sender; returns when its pre-flight check is over."""
        self._sender = subprocess.Popen(
            [sys.executable, "-m", "jepa_edge.runtimes.mavlink.sender", str(self.channel.fd)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self.channel.fd],
            start_new_session=True,  # Ctrl-C is for the runtime; the sender brakes first
        )
        assert self._sender.stdin is not None
        self._sender.stdin.write(msgspec.json.encode(self.config) + b"\n")
        self._sender.stdin.flush()
        self._began_s = time.monotonic()
        ready = self._answer(STARTED_WITHIN_S)
        if ready.refused:
            self._sender.stdin.close()
            self._sender.wait(5.0)
            raise CheckFailedError(f"mavlink pre-flight: {ready.refused}")
        for warning in ready.warnings:
            stderr.print(f"mavlink pre-flight: {warning}", markup=False, soft_wrap=True)
        return ready

    def _answer(self, within_s: float) -> Ready:
        assert self._sender.stdout is not None
        readable, _, _ = select.select([self._sender.stdout], [], [], within_s)
        line = self._sender.stdout.readline() if readable else b""
        if not line:
            self._sender.kill()
            self._sender.wait()
            return Ready(refused="the sender process did not start; its error is above")
        return msgspec.json.decode(line, type=Ready)

    def _look_after(self) -> None:
        """Tells of what the sender does, and replaces it when it is dead or stalled."""
        last = self.channel.status()
        if last is not None:
            self._tell(last[1])
        stalled_s = (time.monotonic_ns() - (last[0] if last else 0)) / 1e9
        limit_s = STALLED_S if self.config.armed else DRY_STALLED_S
        if time.monotonic() - self._began_s < 1.0 or stalled_s < limit_s:
            return
        stderr.print("mavlink: the sender has stalled; it is replaced")
        self._sender.kill()
        self._sender.wait()
        self.replaced += 1
        self._begin()

    def _tell(self, status: Status) -> None:
        told = f"{status.order}: {status.reason}" if status.reason else status.order
        if status.order != self._told.partition(":")[0]:
            stderr.print(f"mavlink {told}", markup=False, soft_wrap=True)
            self._told = told
