"""What runs where: a small local list, kept up by every flash and rollback."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

import msgspec

from jepa_edge.contract import InputError
from jepa_edge.devices.release.repository import data_folder


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The last that was heard of one host."""

    host: str
    device: str
    name: str
    version: str
    release: str
    result: str
    reason: str = ""
    at: str = ""


def entries() -> list[Entry]:
    """Every host that was flashed from here, by name."""
    file = data_folder() / "hosts.json"
    if not file.is_file():
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Entry])
    except msgspec.MsgspecError as error:
        raise InputError(f"{file} is no list of hosts: {error}") from error


def note(entry: Entry) -> None:
    """Replaces what is known of `entry.host`."""
    at = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with _alone():
        kept = [one for one in entries() if one.host != entry.host]
        both = sorted([*kept, msgspec.structs.replace(entry, at=at)], key=lambda one: one.host)
        file = data_folder() / "hosts.json"
        part = file.with_name(".hosts.json.part")
        part.write_bytes(msgspec.json.format(msgspec.json.encode(both), indent=1))
        part.replace(file)


@contextmanager
def _alone() -> Iterator[None]:
    data_folder().mkdir(parents=True, exist_ok=True)
    with (data_folder() / ".hosts.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
