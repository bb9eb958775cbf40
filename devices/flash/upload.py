"""Chunks to the device: only those it lacks, as fast as it may be, and again after a break."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence

import asyncssh

from jepa_edge.devices.flash.ssh import Device, LostError, answer_from
from jepa_edge.devices.release.build import BuiltRelease

END = bytes(36)


class Limit:
    """A token bucket: `bytes_s` over time, in bursts of at most a fifth of a second; 0 is none."""

    def __init__(self, bytes_s: float) -> None:
        self.bytes_s, self._free_at = bytes_s, time.monotonic()

    async def take(self, size: int) -> None:
        """Waits until `size` more bytes may go."""
        if self.bytes_s <= 0:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now - 0.2) + size / self.bytes_s
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)


async def upload(
    device: Device,
    release: BuiltRelease,
    missing: Sequence[str],
    limit: Limit,
    progress: Callable[[int, int], None],
) -> int:
    """Sends the `missing` chunks of `release`; bytes sent. `progress` gets (chunks done, total).

    Raises `LostError` when the connection breaks (what arrived stays there), `DeviceError` when the
    device refuses a chunk.
    """
    places, sent = release.chunk_places(), 0
    async with device.agent_stream("receive", release.id) as process:
        try:
            for index, digest in enumerate(missing):
                packed = zlib.compress(release.chunk(places[digest]), 6)
                frame = bytes.fromhex(digest) + len(packed).to_bytes(4, "big") + packed
                await limit.take(len(frame))
                process.stdin.write(frame)
                await process.stdin.drain()
                sent += len(frame)
                progress(index + 1, len(missing))
            process.stdin.write(END)
            process.stdin.write_eof()
        except (OSError, asyncssh.Error):
            pass  # the agent's own words, below, say why it stopped listening
        try:
            out, err = await process.communicate()
        except (OSError, asyncssh.Error) as error:
            raise LostError(f"{device.host}: the connection was lost: {error}") from error
        answer_from(device.host, bytes(out or b""), bytes(err or b""))
    return sent
