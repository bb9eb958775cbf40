"""`jepa-edge flash` onto aarch64: wheels, engine, service and MAVLink as a real drone has them.

It is the shipped nano model in int8, exported here, or the bundle JEPA_EDGE_BUNDLE.
"""

import json
import os
import subprocess
import sys
import time

import pytest

from tests.devices.drone import Drone, why_not
from tests.devices.flashing import CLIP, note, own_home
from tests.devices.vehicles import Autopilot

EMULATED = "--fast --threads 1 --age-limit-ms 60000"
"""Every step of the clip, however long it takes: an emulated processor is no robot's."""

WHY_NOT = why_not("arm64")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


def test_flash_runs_and_speaks_to_the_autopilot(tmp_path):
    bundle = os.environ.get("JEPA_EDGE_BUNDLE") or export(tmp_path / "nano.jepa")
    with own_home(tmp_path) as home:
        drone, autopilot = Drone("arm64", tmp_path / "drone", home), Autopilot(battery_pct=80)
        try:
            check(bundle, drone, autopilot)
        finally:
            autopilot.close()
            drone.stop()


def check(bundle, drone, autopilot):
    begun = time.monotonic()
    done = flash(bundle, drone, f"mavlink:udpout:127.0.0.1:{autopilot.port}")
    seconds = round(time.monotonic() - begun, 1)
    assert done.returncode == 0, done.stderr
    assert drone.inside("uname", "-m") == "aarch64\n"
    status = json.loads(drone.agent("status"))
    health = status["health"]
    assert status["service"]["ActiveState"] == "active"
    assert health["ok"] >= 10  # latents of whole windows, from pictures and sound
    assert health["autopilot"] == {"linked": True, "armed": False, "battery_pct": 80}
    before = autopilot.heard[("HEARTBEAT", 191)]
    end = time.monotonic() + 30
    while autopilot.heard[("HEARTBEAT", 191)] < before + 3:
        assert time.monotonic() < end
        time.sleep(0.2)
    heard = autopilot.heard[("HEARTBEAT", 191)]
    note({"case": "arm64", "bundle": status["current"]["name"], "seconds": seconds,
          "health": health, "heartbeats": heard})  # fmt: skip


def export(path):
    argv = [sys.executable, "-m", "jepa_edge.export", "--target", "generic-onnx"]
    argv += ["--precision", "int8", "--out", str(path)]
    subprocess.run(argv, check=True, stdout=sys.stderr)
    return path


def flash(bundle, drone, controller):
    return subprocess.run(
        [
            sys.executable, "-m", "jepa_edge.devices", "flash", "--bundle", bundle,
            "--device", "raspberry-pi-5", "--host", drone.host, "--camera", CLIP,
            "--controller", controller, "--run-flags", EMULATED,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
