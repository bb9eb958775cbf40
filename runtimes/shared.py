"""Ticks for other processes on the same machine: a shared memory, or a local socket.

Both carry the JSON of a tick. The memory holds the newest tick and when it was written, and costs
the same whether anybody reads. The socket (SOCK_SEQPACKET: one tick a message) gives every client
every tick that it has time for.
"""

from __future__ import annotations

import mmap
import os
import socket
from contextlib import suppress
from pathlib import Path

import msgspec

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.handover import Message, Slot
from jepa_edge.runtimes.loop import Tick

ROOM = 1 << 20
FOLDER = Path("/dev/shm")


def shared_file(name: str) -> Path:
    """The file of the shared memory called `name`. Raises `WrongUseError` if that is a path."""
    if not name or "/" in name or name.startswith("."):
        raise WrongUseError(f"shm:{name}: give a plain name, as shm:jepa")
    return FOLDER / name


class SharedTicks:
    """The newest tick, in ``/dev/shm/<name>``; the file goes when the run ends."""

    def __init__(self, name: str) -> None:
        self.file = shared_file(name)
        if self.file.exists():
            raise WrongUseError(
                f"{self.file} is there already; another run, or one that was killed?"
            )
        part = self.file.with_name(f".{name}.part")
        part.write_bytes(bytes(Slot.room(ROOM)))
        with part.open("r+b") as opened:
            self.memory = mmap.mmap(opened.fileno(), 0)
        self.slot = Slot(self.memory, 0, ROOM)
        part.rename(self.file)

    def take(self, tick: Tick) -> bool:
        """Replaces the tick that was there."""
        self.slot.write(msgspec.json.encode(tick))
        return True

    def close(self) -> None:
        """Takes the memory away; who has it open keeps the last tick, and sees its age."""
        self.file.unlink(missing_ok=True)
        self.memory.close()


class SharedReader:
    """The other side of `SharedTicks`, in any process."""

    def __init__(self, name: str) -> None:
        """Raises `InputError` when no run writes there."""
        try:
            with shared_file(name).open("rb") as opened:
                self.memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(f"shm:{name}: no run writes there ({error.strerror})") from error
        self.slot = Slot(self.memory, 0, len(self.memory) - Slot.room(0))

    def newest(self) -> tuple[Message, Tick] | None:
        """The newest tick, with its number and when it was written (monotonic); None before."""
        message = self.slot.read()
        return (message, msgspec.json.decode(message.payload, type=Tick)) if message else None

    def close(self) -> None:
        """Lets go of the memory."""
        self.memory.close()


class SocketTicks:
    """One JSON line a tick to every client of a local socket; who is too slow misses ticks."""

    def __init__(self, path: Path) -> None:
        """Raises `WrongUseError` when the path cannot be listened on, or somebody does already."""
        self.path, self.clients = path, list[socket.socket]()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.setblocking(False)
        try:
            if path.is_socket() and not _answers(path):
                path.unlink()  # of a run that was killed
            self.listener.bind(os.fspath(path))
            path.chmod(0o600)
            self.listener.listen()
        except OSError as error:
            self.listener.close()
            raise WrongUseError(f"unix:{path}: cannot listen there: {error}") from error

    def take(self, tick: Tick) -> bool:
        """Sends the tick to whoever is there; never waits."""
        with suppress(BlockingIOError):
            while True:
                client, _ = self.listener.accept()
                client.setblocking(False)
                self.clients.append(client)
        line = msgspec.json.encode(tick) + b"\n"
        self.clients = [client for client in self.clients if _sent(client, line)]
        return True

    def close(self) -> None:
        """Hangs up."""
        for client in [*self.clients, self.listener]:
            client.close()
        self.path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def _sent(client: socket.socket, line: bytes) -> bool:
    """False when the client is gone; a full one only misses this tick."""
    try:
        client.send(line)
    except BlockingIOError:
        return True
    except OSError:
        client.close()
        return False
    return True
