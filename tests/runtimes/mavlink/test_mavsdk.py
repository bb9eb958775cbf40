"""The other side played by MAVSDK: what we send, decoded by an implementation that is not ours."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runtimes.mavlink.conftest import VEHICLE, free_port, until

pytest.importorskip("mavsdk", reason="MAVSDK is not installed: pip install mavsdk")


class Peer:
    """MAVSDK in a process of its own, and the messages it decoded so far."""

    def __init__(self, port, out):
        self.out = Path(out.name)
        script = Path(__file__).with_name("mavsdk_peer.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(port)], stdin=subprocess.PIPE, stdout=out
        )

    def messages(self, name):
        lines = [line for line in self.out.read_text().splitlines() if line.startswith("{")]
        return [m for m in map(json.loads, lines) if m.get("message_name") == name]

    def setpoints(self, since_ns=0):
        found = self.messages("SET_POSITION_TARGET_LOCAL_NED")
        return [m for m in found if m["at_ns"] > since_ns]

    def tell(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()


def moves(setpoint):
    return any((setpoint["vx"], setpoint["vy"], setpoint["vz"]))


@pytest.fixture
def flight(micro_bundle, tiny_clip, tmp_path):
    """A run in flight, and MAVSDK at the other end."""
    port = free_port()
    vehicle = tmp_path / "vehicle.toml"
    vehicle.write_text(VEHICLE.format(brake_s=1.0, more='autopilot = "px4"'))
    with (tmp_path / "peer.jsonl").open("w") as out, (tmp_path / "run.log").open("w") as log:
        peer = Peer(port, out)
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "jepa_edge.runtimes", "--bundle", str(micro_bundle)),
                *("--camera", str(tiny_clip), "--repeat", "--goal", str(tiny_clip), "--arm"),
                *("--controller", f"mavlink:udp:127.0.0.1:{port}", "--vehicle", str(vehicle)),
            ],
            stderr=log,
            stdout=subprocess.DEVNULL,
        )
        until(lambda: run.poll() is not None or any(map(moves, peer.setpoints())), 40.0)
        assert run.poll() is None, Path(log.name).read_text()
        yield run, peer
        os.kill(run.pid, signal.SIGCONT)
        for process in (run, peer.process):
            process.kill()
            process.wait()
        peer.process.stdin.close()


@pytest.mark.slow
def test_mavsdk_sees_setpoints_at_rate_and_a_hold_within_200_ms(flight):
    run, peer = flight
    began_ns = time.monotonic_ns()
    time.sleep(2.0)
    check_flown(peer.setpoints(began_ns))
    heart = peer.messages("HEARTBEAT")
    assert all(m["type"] == 18 and m["autopilot"] == 8 for m in heart)
    assert np.diff([m["at_ns"] for m in heart]).max() / 1e9 < 1.6

    os.kill(run.pid, signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    time.sleep(2.0)
    after = peer.setpoints(stopped_ns)
    held = next(m for m in after if not moves(m))
    assert (held["at_ns"] - stopped_ns) / 1e6 < 200
    assert not any(map(moves, after[after.index(held) :]))
    assert (after[-1]["at_ns"] - stopped_ns) / 1e9 < 1.6  # then silence
    os.kill(run.pid, signal.SIGCONT)
    until(lambda: any(map(moves, peer.setpoints(stopped_ns + 2_000_000_000))))

    peer.tell()  # the pilot takes over; MAVSDK's heartbeat tells of it within a second
    asked_ns = time.monotonic_ns()
    time.sleep(2.5)
    assert peer.setpoints(asked_ns + 1_500_000_000) == []


def check_flown(flown):
    assert len(flown) >= 40
    assert np.diff([m["at_ns"] for m in flown]).max() / 1e6 < 200
    for message in flown:
        assert message["from"] == [1, 191]
        assert message["to"] == [1, 1]
        assert message["coordinate_frame"] == 8  # MAV_FRAME_BODY_NED
        assert message["type_mask"] == 0b0000_0101_1100_0111  # velocity and yaw rate count
        assert np.hypot(message["vx"], message["vy"]) <= 1.5 + 1e-6
