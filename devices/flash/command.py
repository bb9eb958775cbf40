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
    """What is brought where: the release in the file `packed`, or a new one (`build`).

    An empty version in `build` stands for one more than the last.
    """

    hosts: tuple[str, ...]
    build: ReleaseConfig | None
    packed: Path | None
    repository: Path | None
    keys: Path | None
    way: FlashConfig
    fleet: FleetConfig


def flash_all(request: FlashRequest) -> list[Flashed]:
    """How it ended on each host, in the order they were given.

    Raises `WrongUseError` unless exactly one of `build` and `packed` is given.
    """
    if (request.build is None) == (request.packed is None):
        raise WrongUseError("give either --bundle or --release")
    signed = repository_at(request.repository, request.keys, None)
    if not signed.exists:
        signed.create()
        stderr.print(
            f"made signing keys in {signed.keys.online}: keep them safe; move root.pem to a stick "
            "that you need only to change keys (jepa-edge keys --help)"
        )
    with _release(request, signed) as built, _progress(request.hosts) as say:
        if not signed.has(built.manifest):
            signed.publish(built.name, built.manifest)
        trust = signed.message()
        work = flash_fleet(
            request.hosts, lambda host: flash(host, built, trust, request.way, say), request.fleet
        )
        return asyncio.run(work)


@contextmanager
def _release(request: FlashRequest, signed: Repository) -> Iterator[BuiltRelease]:
    if request.packed is not None:
        with open_release(request.packed) as built:
            if not signed.has(built.manifest):
                raise WrongUseError(f"{request.packed} is not signed: jepa-edge publish signs it")
            yield built
        return
    assert request.build is not None
    version = request.build.version or signed.next_version(request.build.device)
    config = msgspec.structs.replace(request.build, version=version)
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
