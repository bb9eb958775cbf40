"""One MAVLink link: bytes to and from the autopilot, signed when there is a key."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any, Protocol

from pymavlink.dialects.v20 import common as mavlink

from jepa_edge.contract import InputError, WrongUseError

KNOWN = (
    "udp:HOST:PORT or udpin:HOST:PORT (listen), udpout:HOST:PORT, tcp:HOST:PORT, serial:DEVICE:BAUD"
)
EPOCH_2015_S = 1_420_070_400
"""Signing counts 10 us since 2015-01-01 UTC."""
MARGIN = 10 * 100_000
"""Ten seconds of it: how often the last timestamp is saved, and what a restart adds."""


class Wire(Protocol):
    """Moves bytes; never waits."""

    def fileno(self) -> int:
        """What to wait on for something to read."""

    def read(self) -> list[bytes]:
        """All that has come."""

    def write(self, data: bytes) -> None:
        """Sends, or loses, `data`."""

    def trust(self) -> None:
        """What was last read came from our autopilot: send there, and hear no other."""

    def close(self) -> None:
        """Lets go of it."""


class Udp:
    """A datagram socket. A listening one hears only the address it trusts, once it trusts one."""

    def __init__(self, host: str, port: int, *, listens: bool) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self._from: Any = None
        self.peer: Any = None if listens else (host, port)
        self.lost = 0
        try:
            if listens:
                self.socket.bind((host, port))
            else:
                self.peer = (socket.gethostbyname(host), port)
        except OSError as error:
            self.socket.close()
            raise InputError(f"mavlink:{host}:{port}: {error.strerror}") from error

    def fileno(self) -> int:
        """See `Wire`."""
        return self.socket.fileno()

    def read(self) -> list[bytes]:
        """See `Wire`."""
        try:
            data, self._from = self.socket.recvfrom(2048)
        except OSError:  # nothing there, or a refusal of what was sent before
            return []
        return [data] if self.peer in (None, self._from) else []

    def write(self, data: bytes) -> None:
        """See `Wire`."""
        if self.peer is None:
            return
        try:
            self.socket.sendto(data, self.peer)
        except OSError:
            self.lost += 1

    def trust(self) -> None:
        """See `Wire`."""
        self.peer = self._from

    def close(self) -> None:
        """See `Wire`."""
        self.socket.close()


class Stream:
    """TCP or a serial line, through pymavlink."""

    def __init__(self, device: str, baud: int) -> None:
        from pymavlink import mavutil

        try:
            self.port = mavutil.mavlink_connection(device, baud=baud, autoreconnect=True)
        except (OSError, ImportError) as error:
            raise InputError(f"mavlink:{device}: {error}") from error

    def fileno(self) -> int:
        """See `Wire`."""
        return int(self.port.fd)

    def read(self) -> list[bytes]:
        """See `Wire`."""
        data = self.port.recv(2048)
        return [bytes(data)] if data else []

    def write(self, data: bytes) -> None:
        """See `Wire`."""
        self.port.write(data)

    def trust(self) -> None:
        """There is only one at the other end."""

    def close(self) -> None:
        """See `Wire`."""
        self.port.close()


def open_wire(address: str) -> Wire:
    """The wire for `address`. Raises `WrongUseError` for another form, `InputError` if it fails."""
    scheme, _, rest = address.partition(":")
    place, _, number = rest.rpartition(":")
    if not place or not number.isdigit():
        raise WrongUseError(f"mavlink:{address} is no address; known: {KNOWN}")
    match scheme:
        case "udp" | "udpin":
            return Udp(place, int(number), listens=True)
        case "udpout":
            return Udp(place, int(number), listens=False)
        case "tcp":
            return Stream(f"tcp:{place}:{number}", 0)
        case "serial":
            return Stream(place, int(number))
    raise WrongUseError(f"mavlink:{address}: unknown kind {scheme!r}; known: {KNOWN}")


class Codec(mavlink.MAVLink):  # type: ignore[misc]  # pymavlink has no types
    """pymavlink's, which a forged packet cannot make deaf.

    pymavlink takes over the timestamp of a signed packet before it verifies the signature: one
    forgery from the far future, and every true packet after it would be "old".
    """

    def check_signature(self, msgbuf: bytearray, srcSystem: int, srcComponent: int) -> bool:  # noqa: N803
        """Whether the signature is right and newer than the last one of its stream."""
        known = dict(self.signing.stream_timestamps)
        good = bool(super().check_signature(msgbuf, srcSystem, srcComponent))
        if not good:
            self.signing.stream_timestamps = known
        return good


class Link:
    """Messages in and out, as one component of the vehicle."""

    def __init__(self, address: str, system_id: int, component_id: int, key: str | None) -> None:
        self.codec = Codec(None, srcSystem=system_id, srcComponent=component_id)
        self.codec.robust_parsing = True
        self.refused = 0
        self._stamp_file: Path | None = None
        if key is not None:
            self._sign(Path(key))
        self.wire = open_wire(address)

    def send(self, message: mavlink.MAVLink_message) -> None:
        """Sends one message; what the wire loses is lost."""
        if self._stamp_file is not None:  # pymavlink would only count packets
            elapsed_s = time.monotonic() - self._began_s
            now = self._began_stamp + round(elapsed_s * 100_000)
            self.codec.signing.timestamp = max(self.codec.signing.timestamp, now)
        self.wire.write(message.pack(self.codec))
        self.codec.seq = (self.codec.seq + 1) % 256

    def received(self) -> list[mavlink.MAVLink_message]:
        """All that has come with a right checksum and, with a key, a right and new signature."""
        messages = []
        for data in self.wire.read():
            for message in self.codec.parse_buffer(data) or []:
                if message.get_type() == "BAD_DATA":
                    self.refused += 1
                else:
                    messages.append(message)
        return messages

    def save_stamp(self) -> None:
        """Keeps the signing timestamp, so that a restart without a clock does not repeat it."""
        if self._stamp_file is not None:
            part = self._stamp_file.with_suffix(".part")
            part.write_text(str(self.codec.signing.timestamp))
            part.replace(self._stamp_file)

    def _sign(self, key: Path) -> None:
        signing = self.codec.signing
        signing.secret_key = secret_key(key)
        signing.sign_outgoing = True
        self._stamp_file = key.with_name(key.name + ".timestamp")
        now = round((time.time() - EPOCH_2015_S) * 100_000)
        try:
            saved = int(self._stamp_file.read_text()) + MARGIN
        except (OSError, ValueError):
            saved = 0
        signing.timestamp = self._began_stamp = max(now, saved)
        self._began_s = time.monotonic()
        try:
            self.save_stamp()
        except OSError as error:
            raise InputError(
                f"signing key {key}: the timestamp beside it cannot be written: {error}"
            ) from error


def secret_key(path: Path) -> bytes:
    """The 32 bytes in `path`, as they are or as hexadecimal digits.

    Raises `InputError` if it is missing, of another length, or readable by others.
    """
    try:
        content, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        raise InputError(f"signing key {path}: {error.strerror}") from error
    if mode & 0o077:
        raise InputError(f"signing key {path} is readable by others; chmod 600 {path}")
    if len(content) == 32:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError(
            f"signing key {path} must hold 32 bytes or 64 hexadecimal digits; "
            f"make one with: openssl rand -hex 32 > {path}"
        )
    return key
