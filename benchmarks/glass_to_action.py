"""How old the world is when the robot acts on it: from the light to the action, on a live stream.

python benchmarks/glass_to_action.py dist/nano-x86-cpu.jepa [SECONDS]

An RTSP camera with sound (30 frames/s, H.264, loopback) writes the monotonic clock into its
picture; the run reads it back from the newest frame that it acted on. `reported` is what the run
itself believes, from arrival times alone. Of the true age up to one step of the camera's clip (the
newest frame of a step is half a step old when the step ends) belongs to the model's frame rate.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from itertools import takewhile
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.live import LiveSource
from jepa_edge.runtimes.loop import Loop
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

ROOT = Path(__file__).resolve().parent.parent
CAMERA = ROOT / "tests" / "runtimes" / "rtsp_server.py"
RESULT = Path(__file__).parent / "results" / "streaming" / "glass-to-action.json"
BLOCK, LINES, COLUMNS = 12, 4, 8


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """Order statistics in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    precision: str
    seconds: float
    actions: int
    holds: int
    dropped: int
    glass_to_action: Ages
    reported: Ages
    machine: Machine


def clock_ms(video: FloatArray) -> int:
    """The monotonic milliseconds (32 bits) that the last frame of `video [1, 3, 2, H, W]` shows."""
    upper = video[0, :, -1, : LINES * BLOCK].mean(axis=0)
    blocks = upper.reshape(LINES, BLOCK, COLUMNS, BLOCK).mean(axis=(1, 3))
    bits = (blocks > (blocks.max() + blocks.min()) / 2).reshape(-1)
    return sum(1 << place for place, bit in enumerate(bits.tolist()) if bit)


def measure(folder: Path, seconds: float, port: int = 8575) -> Result:
    """Runs the bundle on the camera for so long."""
    bundle = open_bundle(folder)
    newest: list[StepData] = []
    loop = Loop(
        Stream(bundle, None, threads=1),
        age_limit_ms=1000.0,
        recorder=lambda step, *_: newest.append(step),
    )
    true, told, holds, dropped = [], [], 0, 0
    command = ["/usr/bin/python3", str(CAMERA), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as camera:
        assert camera.stdout is not None
        camera.stdout.readline()
        uri = f"rtsp://127.0.0.1:{port}/live"
        with closing(LiveSource(uri, uri, bundle.manifest.senses)) as source:
            ends = time.monotonic() + seconds
            for tick in takewhile(lambda _: time.monotonic() < ends, loop.ticks(source)):
                step = newest.pop()
                if tick.step * bundle.manifest.senses.step_s < 2:
                    continue  # the stream is just opening
                holds, dropped = holds + (tick.state == "hold"), dropped + tick.dropped
                if tick.state == "ok" and step.video is not None:
                    now_ms = time.monotonic_ns() // 1_000_000
                    true.append((now_ms - clock_ms(step.video)) % 2**32)
                    told.append(tick.age_ms)
        camera.kill()
    return Result(
        model=bundle.manifest.name,
        precision=bundle.manifest.default_precision,
        seconds=seconds,
        actions=len(true),
        holds=holds,
        dropped=dropped,
        glass_to_action=_ages(true),
        reported=_ages(told),
        machine=machine(1, load()),
    )


def _ages(ms: list[float]) -> Ages:
    p50, p99 = np.percentile(ms, (50, 99))
    return Ages(p50_ms=round(float(p50), 1), p99_ms=round(float(p99), 1), max_ms=round(max(ms), 1))


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
