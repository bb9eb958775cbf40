"""What a flash decides before and beside the wire."""

import asyncio
import socket
import threading
import time

import pytest
from pymavlink.dialects.v10 import common as v1
from pymavlink.dialects.v20 import common as v2

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError, WrongUseError
from jepa_edge.devices.agent.autopilot import Vehicle, _messages, listen, refuse_unfit
from jepa_edge.devices.agent.durable import AgentError
from jepa_edge.devices.fit import fits
from jepa_edge.devices.flash import registry
from jepa_edge.devices.flash.fleet import FleetConfig, flash_fleet
from jepa_edge.devices.flash.pipeline import FlashConfig, Flashed, _persistently
from jepa_edge.devices.flash.pipeline import refuse_unfit as refuse_device
from jepa_edge.devices.flash.ssh import DeviceError
from jepa_edge.devices.flash.upload import Limit
from jepa_edge.devices.targets import target, target_names
from tests.devices.vehicles import Autopilot

FACTS = {"uid": 0, "is_systemd": True, "systemd": 252, "time": 1000.0}


def frames(dialect, *, armed, battery):
    codec = dialect.MAVLink(None, srcSystem=1, srcComponent=1)
    beat = dialect.MAVLink_heartbeat_message(2, 12, 128 if armed else 0, 0, 4, 3)
    power = dialect.MAVLink_sys_status_message(0, 0, 0, 0, 0, 0, battery, 0, 0, 0, 0, 0, 0)
    return [beat.pack(codec), power.pack(codec)]


@pytest.mark.parametrize("dialect", [v1, v2])
def test_mavlink_is_read_as_pymavlink_writes_it(dialect):
    beat, power = frames(dialect, armed=True, battery=77)
    found = {kind: data for _, kind, data in _messages(b"\xfe\xfd" + beat + b"junk" + power)}
    assert found[0][6] & 128
    assert found[1][30] == 77
    for at in range(len(beat)):
        broken = beat[:at] + bytes([beat[at] ^ 0x40]) + beat[at + 1 :]
        assert not list(_messages(broken))


@pytest.mark.parametrize(("battery", "known"), [(55, 55), (-1, None)])
def test_a_vehicle_is_heard_over_udp(battery, known):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    over = threading.Event()

    def speak():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            while not over.wait(0.02):
                for frame in frames(v2, armed=False, battery=battery):
                    out.sendto(frame, ("127.0.0.1", port))

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        assert listen(f"udp:127.0.0.1:{port}", 5.0) == Vehicle(armed=False, battery_pct=known)
    finally:
        over.set()
        thread.join()


def test_an_autopilot_that_listens_is_spoken_to_first():
    autopilot = Autopilot(battery_pct=41)
    try:
        uri = f"udpout:127.0.0.1:{autopilot.port}"
        assert listen(uri, 5.0) == Vehicle(armed=False, battery_pct=41)
        assert set(autopilot.heard) == {("HEARTBEAT", 191)}  # pymavlink reads what we wrote
    finally:
        autopilot.close()


@pytest.mark.parametrize(
    "uri", ["udpout:127.0.0.1:9", "udp:127.0.0.1:0", "serial:/dev/nothing:57600", "carrier:pigeon"]
)
def test_silence_is_no_leave_to_flash(uri):
    with pytest.raises(AgentError) as caught:
        listen(uri, 0.05)
    assert caught.value.code == "no-autopilot"


@pytest.mark.parametrize(
    ("vehicle", "code"),
    [(Vehicle(True, 90), "armed"), (Vehicle(False, 20), "battery-low")],
)
def test_an_unfit_vehicle_is_refused(vehicle, code):
    with pytest.raises(AgentError) as caught:
        refuse_unfit(vehicle, 30)
    assert caught.value.code == code
    refuse_unfit(Vehicle(False, None), 30)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"uid": 1000}, "root"),
        ({"is_systemd": False}, "no systemd"),
        ({"systemd": 237}, "too old"),
        ({"time": 99_000.0}, "clock is"),
    ],
)
def test_an_unfit_device_is_refused(change, says):
    refuse_device("h", FACTS, host_time=1010.0)
    with pytest.raises(CheckFailedError, match=says):
        refuse_device("h", FACTS | change, host_time=1010.0)


def flashed(failing, hosts, config):
    begun = []

    async def one(host):
        begun.append(host)
        await asyncio.sleep(0)
        if host in failing:
            raise CheckFailedError("unhealthy")
        return Flashed(host=host, release="r", result="running", reason="")

    results = asyncio.run(flash_fleet(hosts, one, config))
    return begun, [result.result for result in results]


HOSTS = ["a", "b", "c", "d", "e"]


def test_a_failing_canary_stops_the_fleet():
    begun, results = flashed({"a"}, HOSTS, FleetConfig())
    assert begun == ["a"]
    assert results == ["failed"] + ["not begun"] * 4


def test_a_fleet_goes_on_while_failures_are_allowed():
    begun, results = flashed({"b"}, HOSTS, FleetConfig(max_failures=1, parallel=1))
    assert begun == HOSTS
    assert results.count("running") == 4
    begun, results = flashed({"b"}, HOSTS, FleetConfig(parallel=1))
    assert begun == ["a", "b"]
    assert results.count("not begun") == 3


def test_a_host_is_flashed_once():
    with pytest.raises(WrongUseError, match="once"):
        flashed(set(), ["a", "a"], FleetConfig())


def test_an_upload_keeps_to_its_limit():
    async def send():
        limit = Limit(1_000_000)
        for _ in range(5):
            await limit.take(100_000)

    begun = time.monotonic()
    asyncio.run(send())
    assert time.monotonic() - begun >= 0.29  # half a second's worth, less one burst


def test_the_list_of_hosts_keeps_the_last_of_each(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert registry.entries() == []
    for host, version in (("b", "1"), ("a", "1"), ("b", "2")):
        registry.note(
            registry.Entry(
                host=host, device="d", name="n", version=version, release="r", result="running"
            )
        )
    assert [(one.host, one.version) for one in registry.entries()] == [("a", "1"), ("b", "2")]


def test_a_fit_is_an_estimate_that_grows_with_the_model(micro_bundle):
    bundle = open_bundle(micro_bundle)
    found = fits(bundle, [target(name) for name in target_names()])
    assert {fit.source for fit in found} == {"estimated"}
    small = next(fit for fit in found if fit.target == "raspberry-pi-5")
    assert small.fits_memory
    assert small.fits_rate
    boards = {fit.target for fit in found}
    assert {"raspberry-pi-5", "drone-voxl2", "jetson-agx-orin"} <= boards


def test_every_board_says_where_its_facts_are_from():
    for name in target_names():
        board = target(name).board
        assert board is None or board.sources


def test_a_device_that_still_boots_is_asked_again():
    answers = [DeviceError("drone", "booting", "systemctl: not connected"), {"state": {}}]
    told = []

    async def work():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    config = FlashConfig(device="generic-onnx", retry_s=0.0)
    say = lambda _host, what, _done, _total: told.append(what)  # noqa: E731
    assert asyncio.run(_persistently(work, config, "drone", say)) == {"state": {}}
    assert told == ["waiting for the device to boot"]
