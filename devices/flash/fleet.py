"""Many devices: a few first, then the others in parallel, and a stop when one goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from jepa_edge.contract import JepaEdgeError, WrongUseError
from jepa_edge.devices.flash.pipeline import Flashed

One = Callable[[str], Awaitable[Flashed]]


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`canary` hosts go first, one after the other; then `parallel` at a time."""

    canary: int = 1
    parallel: int = 8
    max_failures: int = 0


async def flash_fleet(hosts: Sequence[str], one: One, config: FleetConfig) -> list[Flashed]:
    """`one` on every host; hosts not begun when too many failed are told as ``not begun``.

    A device that fails has gone back to its old release by itself; those that run are not touched.
    """
    if not hosts or len(set(hosts)) != len(hosts):
        raise WrongUseError("give each --host once")
    results: dict[str, Flashed] = {}
    failures = 0

    async def attempt(host: str) -> None:
        nonlocal failures
        if failures > config.max_failures:
            return
        try:
            results[host] = await one(host)
        except JepaEdgeError as error:
            failures += 1
            results[host] = Flashed(host=host, release="", result="failed", reason=str(error))

    canaries = hosts[: config.canary] if len(hosts) > 1 else hosts
    for host in canaries:
        await attempt(host)
    gate = asyncio.Semaphore(max(1, config.parallel))

    async def in_turn(host: str) -> None:
        async with gate:
            await attempt(host)

    await asyncio.gather(*(in_turn(host) for host in hosts[len(canaries) :]))
    stopped = "not begun: it stopped after the failures above"
    return [
        results.get(host, Flashed(host=host, release="", result="not begun", reason=stopped))
        for host in hosts
    ]
