"""The worker, killed at every file operation it makes: the device always has one whole release.

Real files, real processes that die; only systemd is a stand-in here (`test_virtual_drone` has it).
"""

import io
import json
import os
import shutil
import time

import pytest

from jepa_edge.devices.agent import system, worker
from jepa_edge.devices.agent.durable import AgentError
from jepa_edge.devices.agent.health import Verdict
from jepa_edge.devices.agent.state import Job, Layout, load
from jepa_edge.devices.agent.store import Store, release_from
from jepa_edge.devices.agent.system import Systemd
from jepa_edge.devices.agent.worker import MOST_ATTEMPTS, Worker, submit
from tests.devices.flashing import note
from tests.devices.release_files import frames, manifest_of

CRASHED = 86
FILE_CALLS = ("fsync", "sync", "replace", "rename", "symlink", "unlink", "mkdir", "rmdir")


class Machine:
    """A systemctl whose service behaves as the file `bundle/behaviour` of the release says."""

    def __init__(self, layout):
        self.layout = layout

    def command(self, argv, timeout_s=60.0):
        if argv[1] in ("restart", "start") and argv[-1] == system.SERVICE:
            self.boot()
        elif argv[1] == "show":
            return (self.layout.run / "shown").read_text()
        return ""

    def boot(self):
        """What the machine does with whatever `current` points to."""
        run = self.layout.run
        run.mkdir(parents=True, exist_ok=True)
        behaviour = (self.layout.current / "bundle" / "behaviour").read_text()
        state = "failed" if behaviour.startswith("bad") else "active"
        (run / "shown").write_text(f"ActiveState={state}\nMainPID=7\nNRestarts=0\nResult=x\n")
        health = {"pid": 7, "updated_ns": time.monotonic_ns(), "ok": 99, "holds": 0}
        (run / "health.json").write_text(json.dumps(health))


def files_of(name, behaviour):
    return {"bundle/behaviour": behaviour.encode(), "site/module.py": name.encode() * 1000}


def upload(layout, name, behaviour, **changes):
    store, files = Store(layout.root), files_of(name, behaviour)
    fields = json.loads(manifest_of(files)) | {"version": name, "health": {"within_s": 1}}
    raw = json.dumps(fields | changes).encode()
    release = release_from(raw)
    missing = store.begin(raw)
    store.receive(release, io.BytesIO(frames(files, only=missing)))
    return release.id


def layout_in(folder):
    return Layout(folder / "root", folder / "units", folder / "run")


class Device:
    """A device that runs release 1."""

    def __init__(self, folder, monkeypatch):
        self.layout, self.monkeypatch = layout_in(folder), monkeypatch
        monkeypatch.setattr(os, "sync", lambda: None)  # it would wait for the whole machine
        self.machine = Machine(self.layout)
        monkeypatch.setattr(system, "command", self.machine.command)
        self.services = Systemd(self.layout)

    def copied(self, folder):
        shutil.copytree(self.layout.root.parent, folder, symlinks=True)
        return Device(folder, self.monkeypatch)

    def begin(self, release):
        state = load(self.layout)
        submit(self.layout, self.services, Job(release, "install", previous=state.good))

    def work(self):
        Worker(self.layout, self.services).work()
        return load(self.layout)

    def work_killed_at(self, call):
        """The worker in a process that dies right before its file operation number `call`."""
        child = os.fork()
        if child == 0:
            try:
                count = 0

                def counted(real):
                    def run(*arguments, **more):
                        nonlocal count
                        count += 1
                        if count == call:
                            os._exit(CRASHED)
                        return real(*arguments, **more)

                    return run

                for name in FILE_CALLS:
                    setattr(os, name, counted(getattr(os, name)))
                self.work()
                os._exit(0)
            except BaseException:  # noqa: BLE001  (a fork must never return into pytest)
                os._exit(1)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @property
    def is_whole(self):
        return Store(self.layout.root).verify(self.layout.current_id) == []


@pytest.fixture
def device(memory_path, monkeypatch):
    made = Device(memory_path / "device", monkeypatch)
    made.layout.units.mkdir(parents=True)
    made.begin(upload(made.layout, "1", "good"))
    assert made.work().outcome["result"] == "running"
    return made


@pytest.mark.parametrize("behaviour", ["good", "bad"])
def test_killed_at_every_file_operation(device, memory_path, behaviour):
    first = device.layout.current_id
    second = upload(device.layout, "2", behaviour)
    device.begin(second)
    points = 0
    while True:
        tried = device.copied(memory_path / str(points))
        code = tried.work_killed_at(points + 1)
        assert tried.layout.current_id in (first, second)
        assert tried.is_whole
        if code == 0:
            break
        assert code == CRASHED
        tried.machine.boot()  # the power comes back: the machine starts what `current` says
        state = tried.work()
        assert state.job is None
        assert tried.layout.current_id == (second if behaviour == "good" else first)
        assert tried.is_whole
        assert state.good == tried.layout.current_id
        shutil.rmtree(memory_path / str(points))
        points += 1
    assert points > 25
    ends_on = "new" if behaviour == "good" else "old"
    note({"case": f"every file operation, {behaviour}", "points": points, "ends_on": ends_on})


def test_a_slow_device_has_longer_for_its_trial(device, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)  # nobody may not enter this test's folders
    gates = []

    def watch(_services, _run, gate):
        gates.append(gate)
        return Verdict(True, "")

    monkeypatch.setattr(worker, "watch", watch)
    step = {"what": "comparing", "argv": ["-c", "import time; time.sleep(0.4)"]}
    for version, share in (("2", worker.TRIAL_PER_PREPARE), ("3", 1e6)):
        monkeypatch.setattr(worker, "TRIAL_PER_PREPARE", share)
        device.begin(upload(device.layout, version, "good", prepare=[step]))
        device.work()
    assert 4 * 0.4 <= gates[0].within_s < worker.LONGEST_TRIAL_S == gates[1].within_s


def test_an_update_keeps_the_release_before_and_nothing_else(device):
    first = device.layout.current_id
    for version in ("2", "3"):
        device.begin(upload(device.layout, version, "good"))
        state = device.work()
    assert state.previous != first
    assert Store(device.layout.root).installed() == sorted([state.good, state.previous])
    assert not Store(device.layout.root).chunks.exists()


def test_rollback_goes_there_and_back(device):
    first = device.layout.current_id
    second = upload(device.layout, "2", "good")
    device.begin(second)
    device.work()
    for expected in (first, second, first):
        device.begin(load(device.layout).previous)
        state = device.work()
        assert device.layout.current_id == expected == state.good


def test_an_unhealthy_first_release_leaves_nothing_running(memory_path, monkeypatch):
    made = Device(memory_path / "new", monkeypatch)
    made.layout.units.mkdir(parents=True)
    made.begin(upload(made.layout, "1", "bad"))
    state = made.work()
    assert state.good is None
    assert made.layout.current_id is None
    assert "failed" in state.outcome["reason"]


def test_a_release_that_kills_the_board_is_given_up(device):
    first = device.layout.current_id
    second = upload(device.layout, "2", "good")
    device.begin(second)

    def cut(*_):
        raise KeyboardInterrupt

    for _ in range(MOST_ATTEMPTS):
        with device.monkeypatch.context() as patch:
            patch.setattr(worker, "watch", cut)
            with pytest.raises(KeyboardInterrupt):
                device.work()
    state = device.work()
    assert device.layout.current_id == first == state.good
    assert "cut off" in state.outcome["reason"]


def test_a_full_disk_changes_nothing(device, monkeypatch):
    first = device.layout.current_id
    device.begin(upload(device.layout, "2", "good"))
    with monkeypatch.context() as patch:
        full = OSError(28, "No space left on device")
        patch.setattr(Store, "assemble", lambda *_: (_ for _ in ()).throw(full))
        state = device.work()
    assert (state.outcome["code"], state.good) == ("disk-full", first)
    assert device.layout.current_id == first
    assert device.is_whole


def test_a_failed_preparation_changes_nothing(device, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1000)  # nobody may not enter this test's folders
    first = device.layout.current_id
    store, files = Store(device.layout.root), files_of("2", "good")
    step = {"what": "comparing", "argv": ["-c", "print('cosine 0.1'); raise SystemExit(1)"]}
    raw = json.dumps(json.loads(manifest_of(files)) | {"prepare": [step]}).encode()
    store.receive(release_from(raw), io.BytesIO(frames(files, only=store.begin(raw))))
    device.begin(release_from(raw).id)
    state = device.work()
    assert (state.outcome["code"], device.layout.current_id) == ("unfit", first)
    assert "cosine 0.1" in state.outcome["reason"]


def test_only_one_change_at_a_time(device):
    device.begin(upload(device.layout, "2", "good"))
    with pytest.raises(AgentError) as caught:
        device.begin("another")
    assert caught.value.code == "busy"


@pytest.mark.parametrize(
    ("autopilot", "code"),
    [
        ({"linked": True, "armed": True}, "armed"),
        ({"linked": True, "armed": False, "battery_pct": 10}, "battery-low"),
        ({"linked": False}, "no-autopilot"),
        ({"linked": True, "armed": False, "battery_pct": 80}, None),
    ],
)
def test_a_vehicle_that_may_fly_is_not_touched(device, autopilot, code):
    health = device.layout.run / "health.json"
    fields = json.loads(health.read_text()) | {"autopilot": autopilot}
    health.write_text(json.dumps(fields | {"updated_ns": time.monotonic_ns()}))
    asked = {"autopilot": {"listen": "tcp:127.0.0.1:1", "min_battery_pct": 30}}
    if code is None:
        worker.refuse_flying(device.layout, asked, force=False)
        return
    with pytest.raises(AgentError) as caught:
        worker.refuse_flying(device.layout, asked, force=False)
    assert caught.value.code == code
    worker.refuse_flying(device.layout, asked, force=True)


@pytest.mark.parametrize(("state", "code"), [("offline", "booting"), ("running", "command-failed")])
def test_a_systemd_that_does_not_answer_is_not_a_failure(tmp_path, monkeypatch, state, code):
    tool = tmp_path / "systemctl"
    tool.write_text(
        f"#!/bin/sh\n[ $1 = is-system-running ] && echo {state}\n"
        f"echo $1 >> {tmp_path}/asked\nexit 1\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(AgentError) as caught:
        Systemd(layout_in(tmp_path)).begin_work()
    assert caught.value.code == code
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["start", "is-system-running"] + ["start"] * (state == "running")
