"""`jepa-edge flash` onto aarch64: wheels, engine, service and MAVLink as a real drone has them."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import write_micro_bundle
from tests.devices.drone import Drone, root_folder, why_not

CLIP = Path(__file__).parents[2] / "jepa_edge/assets/clips/forest-000.mp4"
WHY_NOT = why_not("arm64") or (
    ""
    if root_folder("arm64").is_dir()
    else "no arm64 root; it takes minutes: examples/virtual_drone.sh build arm64"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]


class Autopilot:
    """A peer by pymavlink that answers whoever speaks to it, and counts what it hears."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.2)
        self.port, self.over, self.heard = self.socket.getsockname()[1], threading.Event(), {}
        self.thread = threading.Thread(target=self.speak)
        self.thread.start()

    def speak(self):
        from pymavlink.dialects.v20 import common

        codec = common.MAVLink(None, srcSystem=1, srcComponent=1)
        codec.robust_parsing = True
        beat = common.MAVLink_heartbeat_message(2, 12, 0, 0, 4, 3)
        while not self.over.is_set():
            try:
                data, peer = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            for message in codec.parse_buffer(data) or ():
                who = (message.get_type(), message.get_srcComponent())
                self.heard[who] = self.heard.get(who, 0) + 1
            self.socket.sendto(beat.pack(codec), peer)

    def close(self):
        self.over.set()
        self.thread.join()
        self.socket.close()


def test_flash_runs_and_speaks_to_the_autopilot(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    )
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    bundle = os.environ.get("JEPA_EDGE_BUNDLE") or write_micro_bundle(tmp_path)
    drone, autopilot = Drone("arm64", tmp_path / "drone", tmp_path / "home"), Autopilot()
    try:
        done = flash(bundle, drone, f"mavlink:udpout:127.0.0.1:{autopilot.port}")
        assert done.returncode == 0, done.stderr
        assert drone.inside("uname", "-m") == "aarch64\n"
        status = json.loads(drone.agent("status"))
        assert status["health"]["ok"] >= 10
        assert status["health"]["autopilot"]["linked"]
        before = autopilot.heard[("HEARTBEAT", 191)]
        time.sleep(5)
        assert autopilot.heard[("HEARTBEAT", 191)] > before
    finally:
        autopilot.close()
        drone.stop()


def flash(bundle, drone, controller):
    return subprocess.run(
        [
            sys.executable, "-m", "jepa_edge.devices", "flash", "--bundle", bundle,
            "--device", "raspberry-pi-5", "--host", drone.host, "--camera", CLIP,
            "--controller", controller,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
