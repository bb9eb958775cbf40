"""Measures how soon a simulated vehicle is held after a fault, fault by fault, in turns.

python benchmarks/vehicle_faults.py --bundle dist/x.jepa --clip clip.mp4 --rounds 5 --out FILE.json

Each flight is a real `jepa-edge run` that steers the simulated autopilot. A fault is done to it,
and the autopilot notes when the first zero setpoint came, when the last one, and how far it got.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.worlds.autopilot import Autopilot, Kind

BRAKE_S = 1.0
FAULTS = ("runtime stopped", "runtime killed", "Ctrl-C", "sender stopped")


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One fault; `hold_ms` None: no zero setpoint came, the autopilot stopped by itself."""

    autopilot: str
    fault: str
    hold_ms: float | None
    last_setpoint_ms: float
    at_rest_ms: float
    drift_m: float


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Everything measured, and where."""

    machine: Machine
    brake_s: float
    guid_timeout_s: float
    flights: list[Flight]


def main(
    bundle: Annotated[Path, typer.Option(help="One with a rollout graph.")],
    clip: Annotated[Path, typer.Option(help="Seen again and again; its end is the goal.")],
    actions: Annotated[str, typer.Option(help="Their meaning.")] = "forward,left,up,yaw_rate",
    rounds: Annotated[int, typer.Option(help="Of all faults.")] = 5,
    out: Annotated[Path, typer.Option(help="The results.")] = Path("vehicle_faults.json"),
) -> None:
    """Flies all faults in turns and writes what they came to."""
    before, flights = load(), list[Flight]()
    vehicle = out.with_suffix(".vehicle.toml")
    names = ", ".join(f'"{name}"' for name in actions.split(","))
    vehicle.write_text(f"actions = [{names}]\n[limits]\nwish_ms = 300.0\nbrake_s = {BRAKE_S}\n")
    for _ in range(rounds):
        for kind in ("px4", "ardupilot"):
            for fault in FAULTS:
                flights.append(_fly(kind, fault, bundle, clip, vehicle))
                typer.echo(msgspec.json.encode(flights[-1]).decode())
    vehicle.unlink()
    result = Faults(
        machine=machine(1, before), brake_s=BRAKE_S, guid_timeout_s=1.0, flights=flights
    )
    out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def _fly(kind: Kind, fault: str, bundle: Path, clip: Path, vehicle: Path) -> Flight:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    autopilot = Autopilot(kind, port)
    run = subprocess.Popen(
        [
            *(sys.executable, "-m", "jepa_edge.runtimes", "--bundle", str(bundle), "--arm"),
            *("--camera", str(clip), "--repeat", "--goal", str(clip), "--threads", "1"),
            *("--controller", f"mavlink:udp:127.0.0.1:{port}", "--vehicle", str(vehicle)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until(lambda: autopilot.choose("offboard"), 60.0)
        _until(lambda: autopilot.state.speed > 0.2, 30.0)
        return _measured(autopilot, run, kind, fault)
    finally:
        os.kill(run.pid, signal.SIGCONT)
        run.kill()
        run.wait()
        autopilot.close()


def _measured(autopilot: Autopilot, run: subprocess.Popen[bytes], kind: Kind, fault: str) -> Flight:
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    at_ns, place = time.monotonic_ns(), np.array(autopilot.state.position)
    match fault:
        case "runtime stopped":
            os.kill(run.pid, signal.SIGSTOP)
        case "runtime killed":
            os.kill(run.pid, signal.SIGKILL)
        case "Ctrl-C":
            os.kill(run.pid, signal.SIGINT)
        case _:  # and the runtime, or it would replace the sender
            os.kill(run.pid, signal.SIGSTOP)
            os.kill(int(children[0]), signal.SIGSTOP)
    _until(lambda: autopilot.state.speed < 0.1, 20.0)
    rest_ns, drift = time.monotonic_ns(), np.array(autopilot.state.position) - place
    time.sleep(BRAKE_S + 0.5)
    if fault == "sender stopped":
        os.kill(int(children[0]), signal.SIGKILL)
    after = [t for t in list(autopilot.taken) if t.at_ns > at_ns]
    zeros = [t.at_ns for t in after if not any(t.velocity)]
    return Flight(
        autopilot=kind,
        fault=fault,
        hold_ms=round((zeros[0] - at_ns) / 1e6, 1) if zeros else None,
        last_setpoint_ms=round((after[-1].at_ns - at_ns) / 1e6, 1) if after else 0.0,
        at_rest_ms=round((rest_ns - at_ns) / 1e6, 1),
        drift_m=round(float(np.linalg.norm(drift)), 3),
    )


def _until(condition: Callable[[], bool], within_s: float) -> None:
    ends_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > ends_s:
            raise SystemExit("error: the flight did not come so far; is the bundle right?")
        time.sleep(0.005)


if __name__ == "__main__":
    typer.run(main)
