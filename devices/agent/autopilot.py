"""Is the vehicle armed, and how full is its battery? Read from the autopilot's own MAVLink stream.

Just enough of MAVLink 1 and 2 (https://mavlink.io/en/guide/serialization.html) to read HEARTBEAT
and SYS_STATUS, checksums included. Nothing is ever sent, but a heartbeat of our own where the
autopilot listens (``udpout``): it answers only to who has spoken.
"""

from __future__ import annotations

import os
import select
import socket
import termios
import time
from typing import Callable, Iterator, NamedTuple

from jepa_edge.devices.agent.durable import AgentError

HEARTBEAT, SYS_STATUS = 0, 1
CRC_EXTRA = {HEARTBEAT: 50, SYS_STATUS: 124}
ARMED = 128  # MAV_MODE_FLAG_SAFETY_ARMED in HEARTBEAT.base_mode
INVALID_AUTOPILOT = 8  # MAV_AUTOPILOT_INVALID: a ground station or a companion, not the vehicle
FIELDS = {HEARTBEAT: 9, SYS_STATUS: 31}
OURS = bytes([0, 0, 0, 0, 18, INVALID_AUTOPILOT, 0, 3, 3])
"""The payload of our HEARTBEAT: an onboard controller (18), standing by, of MAVLink 2."""


SPEAK_S = 0.5
KNOWN = "udp:[HOST]:PORT, udpout:HOST:PORT, tcp:HOST:PORT, serial:DEVICE:BAUD"


class Vehicle(NamedTuple):
    """What the autopilot says; `battery_pct` is None where it does not know."""

    armed: bool
    battery_pct: int | None


def refuse_unfit(vehicle: Vehicle, min_battery_pct: int) -> None:
    """Raises `AgentError` unless `vehicle` is disarmed with enough battery."""
    if vehicle.armed:
        raise AgentError("armed", "the vehicle is armed; land and disarm it first")
    if vehicle.battery_pct is not None and vehicle.battery_pct < min_battery_pct:
        raise AgentError(
            "battery-low",
            "the battery is at {} %, an update needs {} %: charge it first".format(
                vehicle.battery_pct, min_battery_pct
            ),
        )


def listen(uri: str, timeout_s: float = 5.0) -> Vehicle:
    """The vehicle behind `uri`, one of `KNOWN`.

    Waits for a heartbeat, then up to one second more for the battery. Raises `AgentError` with code
    ``no-autopilot`` when none comes in time: an unknown vehicle counts as armed.
    """
    try:
        read, close = _open(uri)
    except (OSError, ValueError, KeyError) as error:
        raise AgentError("no-autopilot", "autopilot {}: {}".format(uri, error)) from error
    armed: bool | None = None
    battery: int | None = None
    end = time.monotonic() + timeout_s
    buffer = b""
    try:
        while time.monotonic() < end and (armed is None or battery is None):
            buffer += read(min(SPEAK_S, max(0.0, end - time.monotonic())))
            for _system, kind, payload in _messages(buffer):
                if kind == HEARTBEAT and payload[5] != INVALID_AUTOPILOT:
                    end = min(end, time.monotonic() + 1.0) if armed is None else end
                    armed = bool(payload[6] & ARMED)
                elif kind == SYS_STATUS:
                    battery = payload[30] if payload[30] <= 100 else None
            buffer = buffer[-300:]
    finally:
        close()
    if armed is None:
        raise AgentError(
            "no-autopilot",
            "no heartbeat on {} within {:.0f} s, so whether the vehicle is armed is unknown: power "
            "the autopilot, or flash with --autopilot none".format(uri, timeout_s),
        )
    return Vehicle(armed, battery)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(system, message id, payload) of each whole HEARTBEAT and SYS_STATUS in `data`."""
    at = 0
    while at + 8 <= len(data):
        head = _head(data, at)
        if head is None:
            at += 1
            continue
        start, length, kind, system = head
        end = start + length + 2
        if end > len(data) or kind not in CRC_EXTRA:
            at += 1
            continue
        if _crc(data[at + 1 : start + length], CRC_EXTRA[kind]) == data[end - 2 : end]:
            payload = data[start : start + length] + bytes(FIELDS[kind])  # MAVLink 2 cuts zeros
            yield system, kind, payload[: FIELDS[kind]]
            at = end
        else:
            at += 1


def _head(data: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(payload start, payload length, message id, system) if a frame may begin at `at`."""
    if data[at] == 0xFE:
        return at + 6, data[at + 1], data[at + 5], data[at + 3]
    if data[at] == 0xFD and at + 10 <= len(data):
        return at + 10, data[at + 1], int.from_bytes(data[at + 7 : at + 10], "little"), data[at + 5]
    return None


def _crc(data: bytes, extra: int) -> bytes:
    """CRC-16/MCRF4XX of `data` and the message's extra byte, low byte first."""
    crc = 0xFFFF
    for byte in data + bytes([extra]):
        low = byte ^ (crc & 0xFF)
        low = (low ^ (low << 4)) & 0xFF
        crc = (crc >> 8) ^ (low << 8) ^ (low << 3) ^ (low >> 4)
    return (crc & 0xFFFF).to_bytes(2, "little")


Reader = Callable[[float], bytes]


def _open(uri: str) -> tuple[Reader, Callable[[], None]]:
    kind, _, rest = uri.partition(":")
    openers: dict[str, Callable[[str], tuple[Reader, Callable[[], None]]]] = {
        "udp": _open_udp,
        "udpin": _open_udp,
        "udpout": _open_udp_out,
        "tcp": _open_tcp,
        "serial": _open_serial,
    }
    if kind not in openers:
        raise ValueError("unknown scheme; known: " + KNOWN)
    return openers[kind](rest)


def _open_udp(rest: str) -> tuple[Reader, Callable[[], None]]:
    host, _, port = rest.rpartition(":")
    heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    heard.bind((host or "127.0.0.1", int(port)))
    return _reader(heard.fileno(), lambda: heard.recv(65536)), heard.close


def _open_udp_out(rest: str) -> tuple[Reader, Callable[[], None]]:
    """Speaks at each read, and hears only who it speaks to."""
    host, _, port = rest.rpartition(":")
    wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    wire.connect((host, int(port)))
    hear, sent = _reader(wire.fileno(), lambda: wire.recv(65536)), 0

    def read(timeout_s: float) -> bytes:
        nonlocal sent
        try:
            wire.send(_frame(HEARTBEAT, OURS, sent % 256))
            sent += 1
            return hear(timeout_s)
        except OSError:  # nobody is there yet
            time.sleep(min(0.1, timeout_s))
            return b""

    return read, wire.close


def _frame(kind: int, payload: bytes, sequence: int) -> bytes:
    """A MAVLink 2 message of system 1, component 191: the onboard computer of a vehicle."""
    packed = payload.rstrip(b"\0")
    head = bytes([len(packed), 0, 0, sequence, 1, 191]) + kind.to_bytes(3, "little")
    return b"\xfd" + head + packed + _crc(head + packed, CRC_EXTRA[kind])


def _open_tcp(rest: str) -> tuple[Reader, Callable[[], None]]:
    host, _, port = rest.rpartition(":")
    stream = socket.create_connection((host, int(port)), timeout=3)
    return _reader(stream.fileno(), lambda: stream.recv(65536)), stream.close


def _open_serial(rest: str) -> tuple[Reader, Callable[[], None]]:
    device, _, baud = rest.rpartition(":")
    speed = getattr(termios, "B" + baud)
    handle = os.open(device, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    mode = termios.tcgetattr(handle)
    mode[0], mode[1], mode[3] = 0, 0, 0  # raw
    mode[2] = termios.CS8 | termios.CREAD | termios.CLOCAL
    mode[4] = mode[5] = speed
    termios.tcsetattr(handle, termios.TCSANOW, mode)
    return _reader(handle, lambda: os.read(handle, 65536)), lambda: os.close(handle)


def _reader(handle: int, take: Callable[[], bytes]) -> Reader:
    def read(timeout_s: float) -> bytes:
        ready, _, _ = select.select([handle], [], [], timeout_s)
        return take() if ready else b""

    return read
