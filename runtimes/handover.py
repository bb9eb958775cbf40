"""Handing things to other processes through shared memory: the newest wins, nobody ever waits.

A message lies under a checksum of itself, its number and its time, so a reader never takes half of
one: not while it is written, not when its writer was killed or stopped half-way, and not on a
processor that reorders writes (openpilot's msgq uses memory fences for this; Python has none).
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import zlib
from typing import NamedTuple

from jepa_edge.contract import WrongUseError

HEAD = struct.Struct("<QQII")
"""Sequence, monotonic ns of the writing, length, CRC-32 of all that."""
BEAT = struct.Struct("<Q")


class Message(NamedTuple):
    """A whole message, its place among all, and when it was written (monotonic)."""

    sequence: int
    written_ns: int
    payload: bytes


class Slot:
    """Room for one message of at most `size` bytes at `offset` of a shared memory."""

    def __init__(self, memory: mmap.mmap, offset: int, size: int) -> None:
        self.memory, self.offset, self.size = memory, offset, size
        last = self.read()
        self._sequence = last.sequence if last else 0

    @staticmethod
    def room(size: int) -> int:
        """Bytes of memory that a slot for messages of `size` takes."""
        return HEAD.size + size

    def write(self, payload: bytes) -> int:
        """Replaces the message; returns its sequence number. One process only may write.

        Raises `WrongUseError` when it does not fit.
        """
        if len(payload) > self.size:
            raise WrongUseError(f"a message of {len(payload)} bytes; there is room for {self.size}")
        self._sequence += 1
        now_ns, length = time.monotonic_ns(), len(payload)
        crc = _checksum(self._sequence, now_ns, payload)
        begin = self.offset + HEAD.size
        self.memory[begin : begin + length] = payload
        head = HEAD.pack(self._sequence, now_ns, length, crc)
        self.memory[self.offset : begin] = head
        return self._sequence

    def read(self) -> Message | None:
        """The newest message; None before the first, or while one is half written."""
        begin = self.offset + HEAD.size
        sequence, written_ns, length, crc = HEAD.unpack(self.memory[self.offset : begin])
        if sequence == 0 or length > self.size:
            return None
        payload = self.memory[begin : begin + length]
        if _checksum(sequence, written_ns, payload) != crc:
            return None
        return Message(sequence, written_ns, payload)


class Beat:
    """When a process last showed that it runs: one aligned number, written every few ms."""

    def __init__(self, memory: mmap.mmap, offset: int) -> None:
        self.memory, self.offset = memory, offset
        self._stopped = threading.Event()

    def strike(self) -> None:
        """Now."""
        self.memory[self.offset : self.offset + BEAT.size] = BEAT.pack(time.monotonic_ns())

    def last_ns(self) -> int:
        """When it was, in monotonic ns; 0 for never."""
        return int(BEAT.unpack(self.memory[self.offset : self.offset + BEAT.size])[0])

    def keep(self, period_s: float) -> None:
        """Strikes from a thread until `stop`: a stopped or killed process strikes no more."""
        threading.Thread(target=self._keep, args=(period_s,), daemon=True).start()

    def stop(self) -> None:
        """No more."""
        self._stopped.set()

    def _keep(self, period_s: float) -> None:
        while not self._stopped.wait(period_s):
            self.strike()


def anonymous_memory(size: int) -> tuple[int, mmap.mmap]:
    """A file descriptor to hand to a child process, and its memory. Nothing of it has a name."""
    fd = os.memfd_create("jepa-edge")
    os.ftruncate(fd, size)
    return fd, mmap.mmap(fd, size)


def _checksum(sequence: int, written_ns: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(HEAD.pack(sequence, written_ns, len(payload), 0)))
