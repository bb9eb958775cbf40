"""`jepa-edge flash` onto a real Debian with systemd and OpenSSH, killed wherever it can be.

Each row of the table in docs/devices.md is one case here; JEPA_EDGE_RECORD=FILE writes it anew.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from jepa_edge.contract import InputError
from jepa_edge.devices.flash.pipeline import FlashConfig, flash, roll_back
from jepa_edge.devices.flash.ssh import DeviceError
from jepa_edge.devices.release.build import ReleaseConfig, build_release
from jepa_edge.devices.release.repository import Keys, Repository
from tests.conftest import write_micro_bundle
from tests.devices.drone import Drone, why_not
from tests.devices.variant import variant

CLIP = Path(__file__).parents[2] / "jepa_edge/assets/clips/forest-000.mp4"
FLASH_AND_DIE = Path(__file__).parent / "flash_and_die.py"
KILL_AT = (Path(__file__).parent / "kill_at.py").read_text()
QUICK = {"within_s": 25, "ok_steps": 3}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("amd64")), reason=why_not("amd64")),
]


class Bench:
    """A drone that runs a release, the repository that signs for it, and the next releases."""

    def __init__(self, folder):
        self.folder = folder
        self.repository = Repository(folder / "r", Keys(online=folder / "k", root=folder / "k"))
        self.repository.create()
        self.drone = Drone("amd64", folder / "drone", folder / "home")
        self.version, self.rows, self.told = 0, [], []
        config = ReleaseConfig(
            bundle=write_micro_bundle(folder),
            device="generic-onnx",
            version="0",
            camera=str(CLIP),
            healthy_steps=3,
            healthy_within_s=25,
        )
        (folder / "base").mkdir()
        self.base = build_release(config, folder / "base", lambda *_: None)

    def release(self, *, sign=True, version=None, **changes):
        """The next release: a few MB that no other has, and `changes` to its manifest."""
        self.version += 1
        folder = self.folder / f"release-{self.version}"
        made = variant(self.base, folder, version=version or str(self.version), **changes)
        if sign:
            self.repository.publish(made.name, made.manifest)
        return made

    def flash(self, release, say=None, **settings):
        config = FlashConfig(device="generic-onnx", retry_s=0.5, **settings)
        trust = settings.pop("trust", None) or self.repository.message()
        return asyncio.run(flash(self.drone.host, release, trust, config, say or self.hear))

    def hear(self, host, what, done, total):
        self.told.append(what)

    def settled(self):
        """The device's own account once it has come to rest."""
        return json.loads(self.drone.agent("follow").splitlines()[-1])

    def assert_runs(self, *releases):
        """Exactly one release, one of `releases`, runs: whole, verified, healthy."""
        end = time.monotonic() + 25
        while True:
            status = self.settled()
            health, service = status["health"] or {}, status["service"]
            runs = service["ActiveState"] == "active"
            if runs and health.get("pid") == int(service["MainPID"]) and health["ok"] >= 3:
                break
            assert time.monotonic() < end, status
            time.sleep(0.3)
        assert status["current"]["release"] in [release.id for release in releases]
        assert status["state"]["job"] is None
        assert status["state"]["good"] == status["current"]["release"]
        assert json.loads(self.drone.agent("verify")) == {"release": status["state"]["good"]}
        return status


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drone")
    environment = {
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "XDG_DATA_HOME": str(folder / "data"),
        "HOME": str(folder / "home"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.delenv("SSH_AUTH_SOCK", raising=False)
        made = Bench(folder)
        try:
            first = made.release()
            assert made.flash(first).result == "running"
            made.running = first
            yield made
        finally:
            made.drone.stop()
            if record := os.environ.get("JEPA_EDGE_RECORD"):
                Path(record).write_text(json.dumps(made.rows, indent=1))


@pytest.fixture
def row(bench, request):
    """Notes how a case ended, for the table."""
    begun = time.monotonic()
    yield
    runs = bench.settled()["current"]["version"]
    seconds = round(time.monotonic() - begun, 1)
    bench.rows.append({"case": request.node.name, "runs": runs, "seconds": seconds})


def kept(bench, release):
    bench.assert_runs(release)
    bench.running = release


STAGES = ["looking at the device", "uploading", "assembling", "comparing", "on trial"]


@pytest.mark.parametrize("stage", STAGES)
def test_client_killed(bench, row, stage, tmp_path):
    """The same command again brings the release; until then the device has the one or the other."""
    release = bench.release()
    (tmp_path / "trust").write_bytes(bench.repository.message())
    argv = [sys.executable, FLASH_AND_DIE, bench.drone.host, release.folder, tmp_path / "trust"]
    done = subprocess.run([*argv, stage], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    bench.assert_runs(bench.running, release)
    again = bench.flash(release)
    assert again.result == "running"
    if stage == "uploading":
        assert 0 < again.sent_bytes < 5 << 20  # what had come was kept
    kept(bench, release)


@pytest.mark.parametrize("stage", ["uploading", "assembling", "on trial"])
def test_connection_killed(bench, row, stage):
    """The flash takes the connection up again by itself."""
    release, cut = bench.release(), []

    def say(host, what, done, total):
        if stage in what and not cut and (total <= 1 or done >= total // 2):
            cut.append(bench.drone.kill("sshd: root@"))

    assert bench.flash(release, say).result == "running"
    assert cut[0]
    kept(bench, release)


def test_receiver_killed(bench, row):
    release, cut = bench.release(), []

    def say(host, what, done, total):
        if what == "uploading" and not cut and done >= total // 2:
            cut.append(bench.drone.kill("agent.pyz --root /opt/jepa-edge receive"))

    assert bench.flash(release, say).result == "running"
    assert cut[0]
    kept(bench, release)


@pytest.fixture
def kill_worker_at(bench):
    """Lets the worker die once at a stage; systemd starts it again."""
    folder = "/etc/systemd/system/jepa-edge-agent.service.d"

    def arm(words):
        bench.drone.inside("rm", "-f", "/var/lib/died")
        bench.drone.inside("tee", "/var/lib/kill_at.py", data=KILL_AT)
        bench.drone.inside("mkdir", "-p", folder)
        text = f'[Service]\nExecStart=\nExecStart=/usr/bin/python3 /var/lib/kill_at.py "{words}"\n'
        bench.drone.inside("tee", f"{folder}/kill.conf", data=text)
        bench.drone.inside("systemctl", "daemon-reload")

    yield arm
    bench.drone.inside("rm", "-rf", folder)
    bench.drone.inside("systemctl", "daemon-reload")


@pytest.mark.parametrize("words", ["assembling", "comparing", "on trial"])
def test_worker_killed(bench, row, kill_worker_at, words):
    release = bench.release()
    kill_worker_at(words)
    assert bench.flash(release).result == "running"
    assert bench.drone.inside("ls", "/var/lib/died")
    kept(bench, release)


BLIND = {"health": {"within_s": 2, "ok_steps": 1_000_000}}


def crashing(unit):
    return unit.replace("--camera media/", "--camera media/no-such-")


@pytest.mark.parametrize("how", ["blind", "crashing"])
def test_unhealthy_release_goes_back_alone(bench, row, how):
    release = bench.release(**(BLIND if how == "blind" else {"unit": crashing}))
    with pytest.raises(DeviceError, match="rolled back"):
        bench.flash(release)
    bench.assert_runs(bench.running)


def test_worker_killed_while_going_back(bench, row, kill_worker_at):
    release = bench.release(**BLIND)
    kill_worker_at("going back")
    with pytest.raises(DeviceError, match="rolled back"):
        bench.flash(release)
    assert bench.drone.inside("ls", "/var/lib/died")
    bench.assert_runs(bench.running)


def test_power_cut_on_trial(bench, row):
    """All processes die at once and the machine boots again, in the middle of a trial."""
    release, cut = bench.release(health=QUICK | {"ok_steps": 15}), []

    def say(host, what, done, total):
        if "on trial" in what and not cut:
            bench.drone.power_off()
            cut.append(True)
            bench.drone.start()

    assert bench.flash(release, say).result == "running"
    assert cut
    kept(bench, release)


def test_rollback_takes_seconds(bench, row):
    old, new = bench.running, bench.release()
    bench.flash(new)
    begun = time.monotonic()
    config = FlashConfig(device="generic-onnx")
    asyncio.run(roll_back(bench.drone.host, config, bench.hear))
    seconds = time.monotonic() - begun
    bench.assert_runs(old)
    bench.rows.append({"case": "rollback", "seconds": round(seconds, 2)})
    assert seconds < 60  # the figure that counts is recorded, on a quiet machine


def refused(bench, release, code, **settings):
    with pytest.raises(DeviceError) as caught:
        bench.flash(release, **settings)
    assert caught.value.code == code
    bench.assert_runs(bench.running)


def test_unsigned_release(bench, row):
    refused(bench, bench.release(sign=False), "untrusted")


def test_signed_by_another(bench, row, tmp_path):
    other = Repository(tmp_path / "r", Keys(online=tmp_path / "k", root=tmp_path / "k"))
    other.create()
    release = bench.release(sign=False)
    other.publish(release.name, release.manifest)
    config = FlashConfig(device="generic-onnx")
    with pytest.raises(DeviceError) as caught:
        asyncio.run(flash(bench.drone.host, release, other.message(), config, bench.hear))
    assert caught.value.code == "untrusted"
    bench.assert_runs(bench.running)


def test_expired_metadata(bench, row, monkeypatch):
    from jepa_edge.devices.release import repository

    with monkeypatch.context() as patch:
        patch.setitem(repository.DAYS, "timestamp", -1)
        release = bench.release()
    refused(bench, release, "expired")
    bench.repository.refresh()


def test_older_version(bench, row):
    refused(bench, bench.release(version="0.1"), "older")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"machine": "aarch64"}, "wrong-machine"),
        ({"python": "3.8"}, "wrong-python"),
        ({"memory_bytes": 1 << 50}, "memory"),
    ],
    ids=["architecture", "python", "memory"],
)
def test_release_for_another_device(bench, row, changes, code):
    refused(bench, bench.release(**changes), code)


def test_corrupted_chunk(bench, row):
    release = bench.release()
    file = release.folder / "media" / "new.bin"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    refused(bench, release, "corrupt-chunk")


def test_disk_full(bench, row):
    release = bench.release()
    bench.drone.inside("mkdir", "-p", "/opt/jepa-edge/chunks")
    bench.drone.inside("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "/opt/jepa-edge/chunks")
    try:
        refused(bench, release, "disk-full")
    finally:
        bench.drone.inside("umount", "/opt/jepa-edge/chunks")


@pytest.mark.parametrize(("armed", "code"), [(True, "armed"), (False, None)], ids=["yes", "no"])
def test_armed_vehicle(bench, row, armed, code):
    """A real MAVLink peer says so; without one that speaks, nothing is touched either."""
    port = 14_000 + os.getpid() % 1000
    asked = {"listen": f"udp:127.0.0.1:{port}", "min_battery_pct": 20}
    release = bench.release(autopilot=asked)
    if armed:
        refused(bench, release, "no-autopilot")
    with Vehicle(port, armed=armed):
        if code:
            refused(bench, release, code)
        else:
            assert bench.flash(release).result == "running"
            kept(bench, release)


class Vehicle:
    """An autopilot, by pymavlink, that says ten times a second whether it is armed."""

    def __init__(self, port, *, armed):
        from pymavlink.dialects.v20 import common

        self.to, self.over = ("127.0.0.1", port), threading.Event()
        self.codec = common.MAVLink(None, srcSystem=1, srcComponent=1)
        self.beat = common.MAVLink_heartbeat_message(2, 12, 128 if armed else 0, 0, 4, 3)
        self.power = common.MAVLink_sys_status_message(0, 0, 0, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0)

    def __enter__(self):
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def speak(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not self.over.wait(0.1):
                for message in (self.beat, self.power):
                    out.sendto(message.pack(self.codec), self.to)


def test_hung_service_is_restarted_by_the_watchdog(bench, row):
    before = bench.settled()["service"]["MainPID"]
    bench.drone.kill("-m jepa_edge.runtimes", 19)
    end = time.monotonic() + 40
    while bench.settled()["service"]["MainPID"] == before:
        assert time.monotonic() < end
        time.sleep(0.5)
    bench.assert_runs(bench.running)


def test_the_service_is_confined(bench, row):
    pid = bench.settled()["service"]["MainPID"]
    status = bench.drone.inside("cat", f"/proc/{pid}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split()[0] not in ("0", "65534")
    assert int(fields["CapEff"], 16) == 0
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    network = Path(f"/proc/{bench.drone.init}/ns/net").readlink()
    inside = bench.drone.inside("readlink", f"/proc/{pid}/ns/net").strip()
    assert inside != str(network)  # no way to listen, nor to be heard
    said = bench.drone.inside("systemd-analyze", "security", "--no-pager", "jepa-edge.service")
    assert float(said.rsplit("jepa-edge.service: ", 1)[1].split()[0]) < 1.5
    logs = bench.drone.inside("journalctl", "--namespace=jepa-edge", "--no-pager", "-n", "5")
    assert logs


def test_unknown_host_key_is_refused(bench, row, tmp_path, monkeypatch):
    known = bench.drone.key.parent / "known_hosts"
    text = known.read_text()
    known.write_text("")
    try:
        with pytest.raises(InputError, match="host key"):
            bench.flash(bench.running)
    finally:
        known.write_text(text)
