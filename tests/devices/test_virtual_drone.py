"""`jepa-edge flash` onto a real Debian with systemd and OpenSSH, killed wherever it can be.

Each case is a row of the table in docs/devices.md.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa_edge.contract import InputError
from jepa_edge.devices.flash.pipeline import FlashConfig, flash, roll_back
from jepa_edge.devices.flash.ssh import DeviceError
from tests.conftest import write_micro_bundle
from tests.devices.drone import Drone, why_not
from tests.devices.flashing import (
    Bench,
    crashing,
    exposure,
    note,
    own_home,
    real_release,
    repository_in,
)
from tests.devices.variant import SIZE
from tests.devices.vehicles import Vehicle

FLASH_AND_DIE = Path(__file__).parent / "flash_and_die.py"
KILL_AT = (Path(__file__).parent / "kill_at.py").read_text()
QUICK = {"within_s": 25, "ok_steps": 3}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(why_not("amd64")), reason=why_not("amd64")),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drone")
    with own_home(folder) as home:
        drone = Drone("amd64", folder / "drone", home)
        try:
            yield Bench(folder, drone, real_release(folder, write_micro_bundle(folder)))
        finally:
            drone.stop()


@pytest.fixture
def row(bench, request):
    """Notes how a case ended, for the table."""
    begun, before = time.monotonic(), bench.running.id
    yield
    ends = "old" if bench.settled()["current"]["release"] == before else "new"
    seconds = round(time.monotonic() - begun, 1)
    note({"case": request.node.name.removeprefix("test_"), "ends_on": ends, "seconds": seconds})


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
        assert 0 < again.sent_bytes < SIZE  # what had come was kept
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
    assert time.monotonic() - begun < 60  # the figure that counts is measured on a quiet machine
    bench.assert_runs(old)


def refused(bench, release, code, **settings):
    with pytest.raises(DeviceError) as caught:
        bench.flash(release, **settings)
    assert caught.value.code == code
    bench.assert_runs(bench.running)


def test_unsigned_release(bench, row):
    refused(bench, bench.release(sign=False), "untrusted")


def test_signed_by_another(bench, row, tmp_path):
    other = repository_in(tmp_path)
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
    assert exposure(bench.drone) < 1.5


def test_unknown_host_key_is_refused(bench, row, tmp_path, monkeypatch):
    known = bench.drone.key.parent / "known_hosts"
    text = known.read_text()
    known.write_text("")
    try:
        with pytest.raises(InputError, match="host key"):
            bench.flash(bench.running)
    finally:
        known.write_text(text)
