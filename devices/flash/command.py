"""`jepa-edge flash`: build or open the release, see that it is signed, bring it to every host."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jepa_edge.contract import WrongUseError
from jepa_edge.devices.flash.fleet import FleetConfig, flash_fleet
from jepa_edge.devices.flash.pipeline import FlashConfig, Flashed, Say, flash
from jepa_edge.devices.release.build import (
    BuiltRelease,
    ReleaseConfig,
    build_release,
    open_release,
)
from jepa_edge.devices.release.repository import Repository, repository_at
from jepa_edge.front import progress_bar, stderr


class FlashRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Every flag of `jepa-edge flash`."""

    hosts: tuple[str, ...]
    device: str
    bundle: Path | None
    release: Path | None
    version: str | None
    precision: str | None
    camera: str
    mic: str | None
    controller: str
    autopilot: str | None
    lock: Path | None
    repository: Path | None
    keys: Path | None
    root: str
    limit_kb_s: float
    canary: int
    parallel: int
    max_failures: int
    downgrade: bool
    force: bool


def flash_all(request: FlashRequest) -> list[Flashed]:
    """How it ended on each host, in the order they were given.

    Raises `WrongUseError` unless exactly one of `bundle` and `release` is given.
    """
    if (request.bundle is None) == (request.release is None):
        raise WrongUseError("give either --bundle or --release")
    signed = repository_at(request.repository, request.keys, None)
    if not signed.exists:
        signed.create()
        stderr.print(
            f"made signing keys in {signed.keys.online}: keep them safe; move root.pem to a stick "
            "that you need only to change keys (jepa-edge keys --help)"
        )
    with _release(request, signed) as built:
        if not signed.has(built.manifest):
            signed.publish(built.name, built.manifest)
        config = FlashConfig(
            device=request.device,
            root=request.root,
            limit_kb_s=request.limit_kb_s,
            force=request.force,
            downgrade=request.downgrade,
        )
        trust = signed.message()
        fleet = FleetConfig(
            canary=request.canary, parallel=request.parallel, max_failures=request.max_failures
        )
        with _progress(request.hosts) as say:
            return asyncio.run(
                flash_fleet(
                    request.hosts, lambda host: flash(host, built, trust, config, say), fleet
                )
            )


@contextmanager
def _release(request: FlashRequest, signed: Repository) -> Iterator[BuiltRelease]:
    if request.release is not None:
        with open_release(request.release) as built:
            if not signed.has(built.manifest):
                raise WrongUseError(f"{request.release} is not signed: jepa-edge publish signs it")
            yield built
        return
    assert request.bundle is not None
    config = ReleaseConfig(
        bundle=request.bundle,
        device=request.device,
        version=request.version or signed.next_version(request.device),
        precision=request.precision,
        camera=request.camera,
        mic=request.mic,
        controller=request.controller,
        autopilot=request.autopilot,
        lock=request.lock,
        root=request.root,
    )
    with tempfile.TemporaryDirectory(prefix="jepa-edge-release-") as folder:
        with progress_bar("release") as progress:
            built = build_release(config, Path(folder), progress)
        yield built


@contextmanager
def _progress(hosts: tuple[str, ...]) -> Iterator[Say]:
    """One bar a host on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=stderr, transient=True) as bars:
        tasks = {host: bars.add_task(host, total=None) for host in hosts}

        def say(host: str, what: str, done: int, total: int) -> None:
            text = f"{host}: {what}"
            bars.update(tasks[host], description=text, completed=done, total=total or None)

        yield say
