"""A simulated autopilot, and `jepa-edge run` steering it from a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jepa_edge.worlds.autopilot import Autopilot

HANGING = Path(__file__).with_name("hanging.py")
VEHICLE = """
actions = ["forward", "left", "up"]
{more}
[limits]
wish_ms = 300.0
brake_s = {brake_s}
"""


def until(condition, within_s=10.0):
    """Waits for `condition()`; returns what it gave, or fails."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"not within {within_s} s")


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Run:
    """One `jepa-edge run`, and what its vehicle was sent."""

    def __init__(self, process, autopilot, note):
        self.process, self.autopilot, self.note = process, autopilot, note

    @property
    def sender(self):
        """The process id of the sender: the one child that has a session of its own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def moving(self, since_ns=0):
        taken = [t for t in list(self.autopilot.taken) if t.at_ns > since_ns]
        return [t for t in taken if any(t.velocity)]

    def fly(self):
        """The pilot arms and gives the vehicle to us; returns when it moves."""
        until(lambda: self.process.poll() is not None or self.autopilot.choose("offboard"), 30.0)
        assert self.process.poll() is None, self.ended()[1]
        until(self.moving)
        time.sleep(0.3)

    def hold_ms(self, since_ns):
        """From then to the first zero setpoint after the last one that was not, once it braked."""
        until(lambda: self.still(since_ns))
        last = max([since_ns] + [t.at_ns for t in self.moving(since_ns)])
        zero = next(t for t in list(self.autopilot.taken) if t.at_ns > last)
        return (zero.at_ns - since_ns) / 1e6

    def still(self, since_ns):
        """Whether setpoints since then ended in ten zeros in a row, or in silence."""
        taken = [t for t in list(self.autopilot.taken) if t.at_ns > since_ns]
        return len(taken) >= 10 and not any(any(t.velocity) for t in taken[-10:])

    def silence_ms(self, since_ns):
        """From then to the last setpoint before half a second of none."""
        until(lambda: time.monotonic_ns() - self.autopilot.taken[-1].at_ns > 5e8)
        return (self.autopilot.taken[-1].at_ns - since_ns) / 1e6

    def hung_ns(self):
        """When the engine began to hang (SIGALRM); None as long as it does not."""
        return int(self.note.read_text()) if self.note.exists() else None

    def ended(self, within_s=10.0):
        self.process.wait(within_s)
        return self.process.returncode, self.process.stderr.read().decode()


@pytest.fixture
def steer(micro_bundle, tiny_clip, tmp_path):
    """steer("px4"): a simulated autopilot, and a run that steers it."""
    started = []

    def start(
        kind, *arguments, brake_s=1.0, more="", armed=True, key=None, parameters=None, hangs=False
    ):
        port = free_port()
        vehicle = tmp_path / "vehicle.toml"
        vehicle.write_text(VEHICLE.format(brake_s=brake_s, more=more))
        autopilot = Autopilot(kind, port, key=key, parameters=parameters)
        clip = str(tiny_clip)
        note = tmp_path / "hung"
        program = [str(HANGING), str(note)] if hangs else ["-m", "jepa_edge.runtimes"]
        command = [
            *(sys.executable, *program, "--bundle", str(micro_bundle)),
            *("--camera", clip, "--repeat", "--goal", clip, "--vehicle", str(vehicle)),
            *("--controller", f"mavlink:udpin:127.0.0.1:{port}", "--threads", "1"),
            *(["--arm"] if armed else []),
            *arguments,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        started.append(Run(process, autopilot, note))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.kill(run.process.pid, signal.SIGCONT)
            run.process.kill()
            run.process.wait()
        run.process.stderr.close()
        run.autopilot.close()
