"""One device: look, enroll, check, send, install, watch; one step a line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from jepa_edge.contract import CheckFailedError, InputError
from jepa_edge.devices.flash.registry import Entry, note
from jepa_edge.devices.flash.ssh import Device, DeviceError, LostError, connected
from jepa_edge.devices.flash.upload import Limit, upload
from jepa_edge.devices.release.build import BuiltRelease

CLOCK_S = 3600.0
"""A device's clock may be this wrong: expiry dates are in days."""
RESENT = 3
"""How often chunks that the device finds changed on its own disk are sent again."""
WAITS = {
    "busy": "waiting for a change under way",
    "booting": "waiting for the device to boot",
}
"""Codes of errors that pass by themselves, and what to tell meanwhile."""

Say = Callable[[str, str, int, int], None]
"""Gets (host, what, done, total)."""


class FlashConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a release is brought onto a device."""

    device: str
    root: str = "/opt/jepa-edge"
    limit_kb_s: float = 0.0
    retries: int = 5
    retry_s: float = 2.0
    force: bool = False
    downgrade: bool = False


class Flashed(msgspec.Struct, frozen=True, kw_only=True):
    """How a flash ended on one host."""

    host: str
    release: str
    result: str
    reason: str
    sent_bytes: int = 0
    seconds: float = 0.0


async def flash(
    host: str, release: BuiltRelease, trust: bytes, config: FlashConfig, say: Say
) -> Flashed:
    """Brings `release` onto `host` and waits until the device keeps it or goes back.

    A broken connection is taken up again, `config.retries` times; the device goes on by itself
    meanwhile. Raises `DeviceError` when the device refuses, `LostError` when it stays away.
    """
    begun = asyncio.get_running_loop().time()
    sent, is_begun = 0, False

    async def once() -> dict[str, Any]:
        nonlocal sent, is_begun
        async with connected(host, config.root) as device:
            if not is_begun:  # else the device went on while the connection was away
                await _prepare(device, trust, say)
                sent += await _send(device, release, config, say)
                answer = await device.agent("install", release.id, *_flags(config))
                if answer["already"]:
                    return {}
                is_begun = True
            return await _follow(device, say)

    for _ in range(RESENT):
        status = await _persistently(once, config, host, say)
        outcome = (status.get("state") or {}).get("outcome") or {"result": "running", "reason": ""}
        if outcome.get("code") != "missing-chunks":
            break
        is_begun = False
    flashed = Flashed(
        host=host,
        release=release.id,
        result=outcome["result"],
        reason=outcome["reason"] or "it runs already",
        sent_bytes=sent,
        seconds=round(asyncio.get_running_loop().time() - begun, 1),
    )
    note(_entry(host, config, release, flashed))
    if flashed.result != "running":
        raise DeviceError(
            host, outcome.get("code") or "failed", f"{flashed.result}: {flashed.reason}"
        )
    return flashed


async def status_of(host: str, root: str) -> dict[str, Any]:
    """What the agent on `host` knows."""
    async with connected(host, root) as device:
        return await device.agent("status")


async def roll_back(host: str, config: FlashConfig, say: Say) -> dict[str, Any]:
    """Takes `host` back to the release before, and waits until it runs."""
    async with connected(host, config.root) as device:
        await device.agent("rollback", *_flags(config))
    status = await _persistently(lambda: _reconnect(host, config, say), config, host, say)
    outcome = status["state"]["outcome"]
    current = status["current"] or {"name": "", "version": "", "release": ""}
    note(
        Entry(
            host=host,
            device=config.device,
            name=current["name"],
            version=current["version"],
            release=current["release"],
            result=outcome["result"],
            reason=outcome["reason"],
        )
    )
    if outcome["result"] != "running":
        raise DeviceError(host, outcome["code"], f"{outcome['result']}: {outcome['reason']}")
    return status


async def _prepare(device: Device, trust: bytes, say: Say) -> None:
    say(device.host, "looking at the device", 0, 1)
    facts = await device.agent("facts")
    refuse_unfit(device.host, facts, host_time=time.time())
    await device.agent("setup")
    await _follow(device, say)  # someone else's change ends first
    await device.agent("trust", "--enroll", data=trust)


def refuse_unfit(host: str, facts: dict[str, Any], *, host_time: float) -> None:
    """Raises `CheckFailedError` for a device that no release can run on.

    What depends on the release (machine, Python, disk, memory, versions, armed) the agent checks.
    """
    if facts["uid"] != 0:
        raise CheckFailedError(f"{host}: the agent needs root: log in as root or allow sudo -n")
    if not facts["is_systemd"]:
        raise CheckFailedError(f"{host}: no systemd runs there, so nothing could watch the service")
    if (facts["systemd"] or 0) < 245:
        raise CheckFailedError(
            f"{host}: systemd {facts['systemd']} is too old; 245 is needed (Ubuntu 20.04)"
        )
    if abs(facts["time"] - host_time) > CLOCK_S:
        raise CheckFailedError(
            f"{host}: its clock is {facts['time'] - host_time:+.0f} s off, and signatures have "
            "dates: set it (timedatectl set-time …) and flash again"
        )


async def _send(device: Device, release: BuiltRelease, config: FlashConfig, say: Say) -> int:
    """Sends what the device lacks; bytes sent."""
    limit, sent = Limit(config.limit_kb_s * 1000), 0
    answer = await device.agent("begin", *_flags(config), data=release.manifest)
    for _ in range(RESENT):
        missing = answer["missing"]
        if not missing:
            return sent

        def told(done: int, total: int) -> None:
            say(device.host, "uploading", done, total)

        sent += await upload(device, release, missing, limit, told)
        answer = await device.agent("missing", release.id)
    raise CheckFailedError(f"{device.host}: what is written there reads back changed: bad storage?")


async def _follow(device: Device, say: Say) -> dict[str, Any]:
    """Shows what the device does until it is done; its status then."""
    last: dict[str, Any] = {}
    async for last in device.lines("follow"):
        if last.get("doing"):
            say(device.host, last["doing"], 0, 0)
    return last


async def _reconnect(host: str, config: FlashConfig, say: Say) -> dict[str, Any]:
    async with connected(host, config.root) as device:
        return await _follow(device, say)


async def _persistently(
    work: Callable[[], Awaitable[dict[str, Any]]], config: FlashConfig, host: str, say: Say
) -> dict[str, Any]:
    """`work`, again after each lost connection; a device that is busy with a change is followed."""
    for attempt in range(config.retries + 1):
        try:
            return await work()
        except LostError as error:
            if attempt == config.retries:
                raise LostError(
                    f"{error}; run the same command again to go on where it stopped"
                ) from error
            say(host, "connection lost, trying again", attempt + 1, config.retries)
        except DeviceError as error:
            if error.code not in WAITS or attempt == config.retries:
                raise
            say(host, WAITS[error.code], attempt + 1, config.retries)
        await asyncio.sleep(config.retry_s)
    raise InputError("retries must not be negative")


def _flags(config: FlashConfig) -> list[str]:
    return ["--force"] * config.force + ["--downgrade"] * config.downgrade


def _entry(host: str, config: FlashConfig, release: BuiltRelease, flashed: Flashed) -> Entry:
    return Entry(
        host=host,
        device=config.device,
        name=release.fields["name"],
        version=release.fields["version"],
        release=release.id,
        result=flashed.result,
        reason=flashed.reason,
    )
