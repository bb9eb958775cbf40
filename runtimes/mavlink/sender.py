"""The process that sends: it owns the timer and the link, and trusts nobody to be alive.

It is started by `MavlinkSink` with the number of a shared memory and its configuration on standard
input, which then stays open: when it closes, the runtime has ended, however it ended.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec
from pymavlink.dialects.v20 import common as mavlink

from jepa_edge.contract import JepaEdgeError
from jepa_edge.runtimes.mavlink.autopilot import Autopilot
from jepa_edge.runtimes.mavlink.channel import Channel
from jepa_edge.runtimes.mavlink.config import Command, Ready, SenderConfig, Status, setpoint_from
from jepa_edge.runtimes.mavlink.link import Link
from jepa_edge.runtimes.mavlink.messages import (
    heartbeat_message,
    setpoint_message,
    status_message,
)
from jepa_edge.runtimes.mavlink.preflight import parameters_of, unsafe
from jepa_edge.runtimes.safety import Guard, Order, Wish

HEARD_WITHIN_S, READ_WITHIN_S, ASK_EVERY_S = 10.0, 3.0, 0.3
LIFELINE = 0
"""Standard input: open as long as the runtime lives."""


class Sender:
    """Receives, decides, sends; `rate_hz` times a second."""

    def __init__(self, config: SenderConfig, channel: Channel) -> None:
        self.config, self.vehicle, self.channel = config, config.vehicle, channel
        self.link = Link(
            config.address,
            self.vehicle.system_id,
            self.vehicle.component_id,
            self.vehicle.signing_key,
        )
        self.autopilot = Autopilot(self.link, self.vehicle.system_id, self.vehicle.autopilot)
        self.guard = Guard(config.limits, self.vehicle.envelope, allowed=config.armed)
        self.began_ns = time.monotonic_ns()
        self.sent = 0
        self._alive = True
        self._wish: Wish | None = None
        self._shown: tuple[str, str] | None = None
        self._heartbeat_s = self._asked_s = -1.0

    def check(self) -> Ready:
        """The pre-flight check: an autopilot that answers, with parameters that are safe."""
        self._until(lambda: self.autopilot.vehicle() is not None, HEARD_WITHIN_S, self._nothing)
        if self.autopilot.vehicle() is None:
            return Ready(refused=self._unheard())
        name = self.autopilot.name
        if not self.vehicle.parameters_checked:
            return Ready(autopilot=name, warnings=["the autopilot's parameters were not checked"])
        wanted = set(parameters_of(name))
        self._until(
            lambda: wanted <= set(self.autopilot.parameters),
            READ_WITHIN_S,
            lambda: self._ask(wanted - set(self.autopilot.parameters)),
        )
        found = unsafe(name, self.autopilot.parameters)
        if found and self.config.armed:
            return Ready(refused="; ".join(found), autopilot=name)
        return Ready(autopilot=name, warnings=found)

    def run(self) -> None:
        """Sends until the runtime has ended and the vehicle has been braked."""
        period_ns = round(1e9 / self.vehicle.rate_hz)
        due_ns = time.monotonic_ns()
        while True:
            self._receive(due_ns)
            order = self.decide()
            self._send(order)
            if not self._alive and order.kind not in ("go", "brake"):
                return
            due_ns = max(due_ns + period_ns, time.monotonic_ns())

    def decide(self) -> Order:
        """The order for now, from the newest of everything."""
        vehicle = self.autopilot.vehicle()
        if vehicle is None:
            return Order(kind="silent", reason="no autopilot heard")
        self._wish = self._newest_wish() or self._wish
        beat_ns = self.channel.beat.last_ns()
        wish = self._wish
        if not self._alive and wish is not None:
            wish = msgspec.structs.replace(wish, hold="the runtime has ended")
        return self.guard.decide(time.monotonic_ns(), wish, beat_ns, vehicle)

    def _newest_wish(self) -> Wish | None:
        """What the runtime asks for; None while it is half written, or before the first."""
        message = self.channel.commands.read()
        if message is None:
            return None
        command = msgspec.msgpack.decode(message.payload, type=Command)
        action = command.action or [0.0] * len(self.vehicle.actions)
        return Wish(
            setpoint=setpoint_from(action, self.vehicle),
            hold=command.hold,
            made_ns=message.written_ns,
            captured_ns=command.captured_ns,
        )

    def _receive(self, due_ns: int) -> None:
        """Hears the link until `due_ns`."""
        while True:
            left_s = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
            watched = [self.link.wire.fileno()] + ([LIFELINE] if self._alive else [])
            ready, _, _ = select.select(watched, [], [], left_s)
            if LIFELINE in ready and not os.read(LIFELINE, 64):
                self._alive = False
            if self.link.wire.fileno() in ready:
                for message in self.link.received():
                    self.autopilot.hear(message)
                    self._obey(message)
            if time.monotonic_ns() >= due_ns:
                return

    def _obey(self, message: mavlink.MAVLink_message) -> None:
        """Pause and go on, from the ground: MAV_CMD_DO_PAUSE_CONTINUE to our component."""
        if message.get_type() != "COMMAND_LONG" or (
            message.target_system,
            message.target_component,
        ) != (self.vehicle.system_id, self.vehicle.component_id):
            return
        known = message.command == mavlink.MAV_CMD_DO_PAUSE_CONTINUE
        if known and message.param1 == 0:
            self.guard.paused = True
        elif known:
            self.guard.resume()
        result = mavlink.MAV_RESULT_ACCEPTED if known else mavlink.MAV_RESULT_UNSUPPORTED
        self.link.send(
            mavlink.MAVLink_command_ack_message(
                *(message.command, result, 0, 0),
                *(message.get_srcSystem(), message.get_srcComponent()),
            )
        )

    def _send(self, order: Order) -> None:
        now_s = time.monotonic()
        if order.kind != "silent":
            boot_ms = (time.monotonic_ns() - self.began_ns) // 1_000_000
            self.link.send(setpoint_message(order, self.vehicle, boot_ms, self.autopilot.yaw_rad))
            self.sent += 1
        shown = (order.kind, order.reason)
        if self._shown is None or shown[0] != self._shown[0]:
            self.link.send(status_message(*shown))
        if now_s - self._heartbeat_s >= 1.0 or self._shown is None:
            self._heartbeat_s = now_s
            self._once_a_second(order)
        self._shown = shown
        self.channel.report(self._status(order))

    def _once_a_second(self, order: Order) -> None:
        self.link.send(heartbeat_message(order.kind))
        vehicle = self.autopilot.vehicle()
        if vehicle is not None and time.monotonic() - self._asked_s > 10.0:
            self._asked_s = time.monotonic()
            self.autopilot.ask_for_streams()
            self.link.save_stamp()

    def _status(self, order: Order) -> Status:
        vehicle = self.autopilot.vehicle()
        return Status(
            order=order.kind,
            reason=order.reason,
            sent=self.sent,
            autopilot=self.autopilot.name,
            mode_is_ours=vehicle is not None and vehicle.external,
            vehicle_armed=vehicle is not None and vehicle.armed,
            heard=vehicle is not None,
            battery_pct=self.autopilot.battery_pct,
        )

    def _until(self, done: Callable[[], bool], within_s: float, ask: Callable[[], None]) -> None:
        """Listens until `done`, asking now and again and showing ourselves by heartbeats."""
        ends_s, ask_s = time.monotonic() + within_s, 0.0
        while self._alive and not done() and time.monotonic() < ends_s:
            if time.monotonic() >= ask_s:
                ask_s = time.monotonic() + ASK_EVERY_S
                self.link.send(heartbeat_message("standby"))
                ask()
            self._receive(time.monotonic_ns() + 50_000_000)

    def _ask(self, names: set[str]) -> None:
        for name in sorted(names):
            self.autopilot.ask_for_parameter(name)

    def _nothing(self) -> None:
        """There is nobody to ask yet."""

    def _unheard(self) -> str:
        signed = (
            f"; {self.link.refused} packets were refused: is its signing key this one?"
            if self.link.refused
            else ""
        )
        return (
            f"no heartbeat of an autopilot with system id {self.vehicle.system_id} on "
            f"mavlink:{self.config.address} within {HEARD_WITHIN_S:g} s{signed}"
        )


def main() -> None:
    """Runs as the child of a runtime: one line out when ready, then nothing more."""
    gc.disable()  # no pauses; nothing here makes cycles
    _hurry()
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(LIFELINE, 1)
        if not piece:
            return
        line += piece
    channel = Channel.of(int(sys.argv[1]))
    try:
        sender = Sender(msgspec.json.decode(line, type=SenderConfig), channel)
        ready = sender.check()
    except JepaEdgeError as error:
        sender, ready = None, Ready(refused=str(error))
    os.write(1, msgspec.json.encode(ready) + b"\n")
    if sender is not None and not ready.refused:
        sender.run()


def _hurry() -> None:
    """Real-time priority, where the system lets us."""
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))


if __name__ == "__main__":
    main()
