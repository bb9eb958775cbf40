"""What the runtime and its sender share: a beat, the newest command, and the sender's status."""

from __future__ import annotations

import mmap
import os

import msgspec

from jepa_edge.runtimes.handover import Beat, Slot, anonymous_memory
from jepa_edge.runtimes.mavlink.config import Command, Status

MESSAGE = 2048
BYTES = 64 + 2 * Slot.room(MESSAGE)
HOLD_CHARACTERS = 400


class Channel:
    """One shared memory, seen from either side."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        self.fd = fd
        self.beat = Beat(memory, 0)
        self.commands = Slot(memory, 64, MESSAGE)
        self.statuses = Slot(memory, 64 + Slot.room(MESSAGE), MESSAGE)

    @classmethod
    def new(cls) -> Channel:
        """The runtime's end."""
        return cls(*anonymous_memory(BYTES))

    @classmethod
    def of(cls, fd: int) -> Channel:
        """The sender's end, over an inherited file descriptor."""
        return cls(fd, mmap.mmap(fd, BYTES))

    def command(self, command: Command) -> None:
        """Hands a command over; a long reason is cut."""
        cut = msgspec.structs.replace(command, hold=command.hold[:HOLD_CHARACTERS])
        self.commands.write(msgspec.msgpack.encode(cut))

    def report(self, status: Status) -> None:
        """Hands a status over."""
        cut = msgspec.structs.replace(status, reason=status.reason[:HOLD_CHARACTERS])
        self.statuses.write(msgspec.msgpack.encode(cut))

    def status(self) -> tuple[int, Status] | None:
        """When the sender last reported (monotonic ns), and what; None before."""
        message = self.statuses.read()
        if message is None:
            return None
        return message.written_ns, msgspec.msgpack.decode(message.payload, type=Status)

    def close(self) -> None:
        """Lets go of the memory."""
        self.beat.stop()
        os.close(self.fd)
