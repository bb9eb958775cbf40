"""`python3 agent.pyz COMMAND`: one JSON object on stdout; exit code 1 when it is refused."""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator

from jepa_edge.devices.agent import autopilot
from jepa_edge.devices.agent.durable import AgentError, read_json
from jepa_edge.devices.agent.health import read_health
from jepa_edge.devices.agent.state import Job, Layout, load
from jepa_edge.devices.agent.store import Release, Store, release_from
from jepa_edge.devices.agent.system import Systemd, facts
from jepa_edge.devices.agent.trust import Trust
from jepa_edge.devices.agent.worker import FULL, Worker, refuse_flying, submit

Json = Dict[str, Any]
STUCK_S = 900
"""The longest one step of a change may take: building engines on a board takes minutes."""
SPARE_BYTES = 64 << 20
"""Room that an update leaves for the journal, logs and compiled Python."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; what goes wrong is JSON too, with a code."""
    parser = argparse.ArgumentParser(prog="agent.pyz", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/opt/jepa-edge"))
    parser.add_argument("--units", type=Path, default=Layout(Path()).units)
    parser.add_argument("--run", type=Path, default=Layout(Path()).run)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("release", nargs="?")
    parser.add_argument("--enroll", action="store_true", help="pin the root of trust that is sent")
    parser.add_argument("--force", action="store_true", help="do not ask the autopilot")
    parser.add_argument("--downgrade", action="store_true", help="allow a lower version")
    given = parser.parse_args(arguments)
    try:
        result = COMMANDS[given.command](given, Layout(given.root, given.units, given.run))
    except AgentError as error:
        print(json.dumps({"error": str(error), "code": error.code}), flush=True)
        return 1
    except OSError as error:
        code = "disk-full" if error.errno in FULL else "system"
        print(json.dumps({"error": str(error), "code": code}), flush=True)
        return 1
    print(json.dumps(result), flush=True)
    return 0


def _facts(_given: argparse.Namespace, layout: Layout) -> Json:
    return facts(layout)


def _status(_given: argparse.Namespace, layout: Layout) -> Json:
    """Everything there is to know; also what a follower shows while a change is under way."""
    state, store = load(layout), Store(layout.root)
    current = store.read(layout.current_id) if layout.current_id else None
    try:
        service = Systemd(layout).show()
    except AgentError:
        service = {}
    progress = read_json(layout.run.with_name(layout.run.name + "-agent.json")) or {}
    return {
        "current": _described(current),
        "installed": store.installed(),
        "state": state.to_json(),
        "doing": progress.get("doing") if state.job else None,
        "service": service,
        "health": read_health(layout.run),
        "trusted": {r: v["version"] for r, v in Trust(layout.root / "trust").now.items()},
    }


def _setup(_given: argparse.Namespace, layout: Layout) -> Json:
    layout.root.mkdir(parents=True, exist_ok=True)
    with _alone(layout):
        Systemd(layout).install()
    return {}


def _trust(given: argparse.Namespace, layout: Layout) -> Json:
    with _alone(layout):
        trust = Trust(layout.root / "trust")
        was_enrolled = trust.is_enrolled
        sent = json.loads(sys.stdin.buffer.read().decode())
        targets = trust.update(sent, _clock(), enroll=given.enroll)
    return {"enrolled": not was_enrolled, "targets": targets["version"]}


def _begin(given: argparse.Namespace, layout: Layout) -> Json:
    """Checks signature, versions, machine and disk before one byte of the release is sent."""
    raw = sys.stdin.buffer.read()
    release = release_from(raw)
    with _alone(layout), _alone(layout, name="work.lock", wait=False):
        signed = Trust(layout.root / "trust").name_of(raw, _clock())
        _check_fits(release, layout, given.downgrade)
        refuse_flying(layout, release.fields, given.force)
        store = Store(layout.root)
        missing = store.begin(raw)
        _check_room(store.room(release, missing), layout)
    return {"release": release.id, "signed_as": signed, "missing": missing}


def _receive(given: argparse.Namespace, layout: Layout) -> Json:
    store = Store(layout.root)
    release = store.pending(given.release)
    return {"received": store.receive(release, sys.stdin.buffer)}


def _missing(given: argparse.Namespace, layout: Layout) -> Json:
    store = Store(layout.root)
    return {"missing": store.missing(store.pending(given.release))}


def _install(given: argparse.Namespace, layout: Layout) -> Json:
    with _alone(layout):
        store, state = Store(layout.root), load(layout)
        if state.job is None and state.good == given.release == layout.current_id:
            return {"already": True}
        if not store.folder(given.release).is_dir():
            Trust(layout.root / "trust").name_of(store.pending(given.release).raw, _clock())
        _submit(given, layout, given.release)
    return {"already": False}


def _rollback(given: argparse.Namespace, layout: Layout) -> Json:
    """Back to the release before, which passed its own trial once; it is tried like any other."""
    with _alone(layout):
        state = load(layout)
        if state.previous is None or not Store(layout.root).folder(state.previous).is_dir():
            raise AgentError("nothing-before", "there is no release before the one that runs")
        _submit(given, layout, state.previous)
    return {"release": state.previous}


def _submit(given: argparse.Namespace, layout: Layout, release: str) -> None:
    state = load(layout)
    job = Job(release=release, phase="install", previous=state.good, force=given.force)
    submit(layout, Systemd(layout), job)


def _follow(_given: argparse.Namespace, layout: Layout) -> Json:
    """Prints what the worker does, a JSON object a line, until nothing is pending; the status."""
    told, since = None, time.monotonic()
    services = Systemd(layout)
    while load(layout).job is not None:
        if time.monotonic() - since > STUCK_S:
            raise AgentError("stuck", "nothing has happened for {} s: {}".format(STUCK_S, told))
        progress = read_json(layout.run.with_name(layout.run.name + "-agent.json")) or {}
        if progress.get("doing") != told:
            told, since = progress.get("doing"), time.monotonic()
            print(json.dumps({"doing": told}), flush=True)
        services.begin_work()  # does nothing while it runs; mends a start that came too early
        time.sleep(0.2)
    return _status(_given, layout)


def _work(_given: argparse.Namespace, layout: Layout) -> Json:
    with _alone(layout, name="work.lock"):
        Worker(layout, Systemd(layout)).work()
    return {}


def _verify(given: argparse.Namespace, layout: Layout) -> Json:
    release = given.release or layout.current_id
    if release is None:
        raise AgentError("nothing-installed", "no release is installed")
    if wrong := Store(layout.root).verify(release):
        raise AgentError("broken-release", "; ".join(wrong))
    return {"release": release}


def _vehicle(given: argparse.Namespace, _layout: Layout) -> Json:
    return autopilot.listen(given.release)._asdict()


def _check_fits(release: Release, layout: Layout, may_go_down: bool) -> None:
    here, fields = facts(layout), release.fields
    for key in ("machine", "python"):
        if fields[key] != here[key]:
            raise AgentError(
                "wrong-" + key,
                "release {} is for {} {}, this device has {}".format(
                    release.label, key, fields[key], here[key]
                ),
            )
    if here["memory_total"] < fields.get("memory_bytes", 0):
        raise AgentError(
            "memory",
            "{} MB of memory needed, {} MB there".format(
                fields["memory_bytes"] >> 20, here["memory_total"] >> 20
            ),
        )
    current = Store(layout.root).read(layout.current_id) if layout.current_id else None
    if current is not None and not may_go_down:
        _check_not_older(release, current)


def _check_room(needed: int, layout: Layout) -> None:
    free = facts(layout)["disk_free"]
    if free < needed + SPARE_BYTES:
        raise AgentError(
            "disk-full",
            "{} MB needed under {}, {} MB free".format(
                (needed + SPARE_BYTES) >> 20, layout.root, free >> 20
            ),
        )


def _check_not_older(new: Release, current: Release) -> None:
    is_same = new.fields["name"] == current.fields["name"]
    if is_same and _order(new.fields["version"]) < _order(current.fields["version"]):
        raise AgentError(
            "older",
            "{} is older than {}, which runs; jepa-edge rollback goes back to the one before, "
            "--allow-downgrade installs it".format(new.label, current.label),
        )


def _order(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _described(release: Release | None) -> Json | None:
    if release is None:
        return None
    return {
        "release": release.id,
        "name": release.fields["name"],
        "version": release.fields["version"],
    }


def _clock() -> datetime:
    return datetime.now(timezone.utc)


@contextmanager
def _alone(layout: Layout, name: str = "lock", wait: bool = True) -> Iterator[None]:
    """Nobody else changes the same thing meanwhile; the lock ends with the process."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with (layout.root / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise AgentError("busy", "another change is under way on this device") from error
        yield


COMMANDS = {
    "facts": _facts,
    "setup": _setup,
    "trust": _trust,
    "begin": _begin,
    "receive": _receive,
    "missing": _missing,
    "install": _install,
    "rollback": _rollback,
    "follow": _follow,
    "status": _status,
    "verify": _verify,
    "vehicle": _vehicle,
    "work": _work,
}

if __name__ == "__main__":
    sys.exit(main())
