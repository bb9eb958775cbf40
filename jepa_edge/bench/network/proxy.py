"""The in-process laboratory: a TCP proxy whose two directions behave as a link; no root needed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jepa_edge.bench.network.link import OneWay, Pipe, SimulatedWay
from jepa_edge.bench.network.profiles import Profile

CHUNK = 64 << 10


class LinkProxy:
    """Listens on loopback and forwards to `target`, late by what the link's two ways say.

    The ways carry byte streams (see `Pipe`), so losses show as delays, as TCP shows them.
    ``cut`` drops everything until ``heal``.
    """

    def __init__(self, target: tuple[str, int], up: OneWay, down: OneWay) -> None:
        self._target, self._ways = target, (up, down)
        self._loop = asyncio.new_event_loop()
        self._ready: threading.Event = threading.Event()
        self._whole = asyncio.Event()
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self.bytes_up = self.bytes_down = 0
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.wait()

    def cut(self) -> None:
        """From now on nothing passes; connections stay open, as on a radio link."""
        self._call(self._whole.clear)

    def heal(self) -> None:
        """Everything passes again: what was under way arrives late."""
        self._call(self._whole.set)

    def close(self) -> None:
        """Ends all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, action: Callable[[], object]) -> None:
        done = threading.Event()

        def act() -> None:
            action()
            done.set()

        self._loop.call_soon_threadsafe(act)
        done.wait()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._whole.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", 0)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.05))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        pipes = [Pipe(way, 0.1) for way in self._ways]
        for source, sink, pipe, is_up in (
            (reader, far_writer, pipes[0], True),
            (far_reader, writer, pipes[1], False),
        ):
            task = self._loop.create_task(self._forward(source, sink, pipe, is_up))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pipe: Pipe, is_up: bool
    ) -> None:
        """Reads at once, so that the sender is never held back, and writes when it is time."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = self._loop.create_task(self._read(source, waiting, pipe, is_up))
        try:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - self._now()))
                await self._whole.wait()
                if not data:
                    break
                sink.write(data)
                await sink.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            reading.cancel()
            sink.close()

    async def _read(
        self,
        source: asyncio.StreamReader,
        waiting: asyncio.Queue[tuple[float, bytes]],
        pipe: Pipe,
        is_up: bool,
    ) -> None:
        data = b"-"
        while data:
            try:
                data = await source.read(CHUNK)
            except (ConnectionError, OSError):
                data = b""
            if is_up:
                self.bytes_up += len(data)
            else:
                self.bytes_down += len(data)
            waiting.put_nowait((pipe.arrival(self._now(), len(data)), data))

    def _now(self) -> float:
        return time.monotonic() - self._began


@contextmanager
def proxied(target: tuple[str, int], profile: Profile, seed: int) -> Iterator[LinkProxy]:
    """A proxy before `target` with a link of `profile`; `seed` draws its chances."""
    ways = (SimulatedWay(profile.up, 2 * seed), SimulatedWay(profile.down, 2 * seed + 1))
    proxy = LinkProxy(target, *ways)
    try:
        yield proxy
    finally:
        proxy.close()
