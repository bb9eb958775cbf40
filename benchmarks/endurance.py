"""Whether memory grows: an hour of stream, as fast as it goes, and the resident memory meanwhile.

    python benchmarks/endurance.py out/nano-x86-cpu.jepa --hours 1

A real `jepa-edge run` plays a film with sound again and again, in every precision of the bundle,
each in a process of its own, without a flight log and (fp32 alone) with one. Growth is the slope
of a straight line through the resident memory of the last nine tenths of the run, in MiB for each
hour of stream.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bundle import open_bundle
from jepa_edge.front import stderr

RESULT = Path(__file__).parent / "results" / "streaming" / "endurance.json"
CLIP = Path(__file__).parent.parent / "jepa_edge" / "assets" / "clips"
EVERY_S = 1.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run: resident MiB at a tenth of it and at its end, and what a line through them gains."""

    precision: str
    logged: bool
    steps: int
    seconds: float
    samples: int
    early_mib: float
    late_mib: float
    growth_mib_per_hour: float
    account: dict[str, object]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    hours: float
    machine: Machine
    rows: list[Row]


def resident_mib(process: int) -> float | None:
    """Resident memory of `process`; None when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    line = next((line for line in status.splitlines() if line.startswith("VmRSS")), None)
    return int(line.split()[1]) / 1024 if line else None


def endured(bundle: Path, precision: str, clip: Path, hours: float, *, logged: bool) -> Row:
    """Runs one precision to its end."""
    manifest = open_bundle(bundle).manifest
    steps = round(hours * 3600 * manifest.senses.steps_per_second)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "jepa_edge.runtimes"]
        command += ["--bundle", str(bundle), "--precision", precision]
        command += ["--camera", str(clip), "--fast", "--repeat", "--steps", str(steps), "--json"]
        command += ["--controller", "none"]
        command += ["--log", f"{folder}/flight.mcap"] if logged else []
        account = Path(folder) / "account.json"
        began, seen = time.monotonic(), []
        with account.open("w") as out, subprocess.Popen(command, stdout=out) as process:
            while process.poll() is None:
                if (mib := resident_mib(process.pid)) is not None:
                    seen.append((time.monotonic() - began, mib))
                time.sleep(EVERY_S)
            seconds = time.monotonic() - began
        if process.returncode:
            raise SystemExit(f"failed: {' '.join(command)}")
        told = msgspec.json.decode(account.read_bytes())
    at, mib = np.array(seen[:-1]).T  # the last is of a process that ends
    late = at > at[-1] / 10
    slope = float(np.polyfit(at[late] * hours / seconds, mib[late], 1)[0])
    return Row(
        precision=precision,
        logged=logged,
        steps=steps,
        seconds=round(seconds, 1),
        samples=len(seen),
        early_mib=round(float(mib[late][:10].mean()), 1),
        late_mib=round(float(mib[-10:].mean()), 1),
        growth_mib_per_hour=round(slope, 2),
        account={name: told[name] for name in ("steps", "holds", "dropped") if name in told},
    )


def main() -> None:
    """Runs all, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    asked = parser.parse_args()
    began, manifest = load(), open_bundle(asked.bundle).manifest
    clip = next(iter(sorted(CLIP.rglob("*.mp4"))))
    rows = []
    ways = [(precision, False) for precision in manifest.precisions] + [("fp32", True)]
    for precision, logged in ways:
        rows.append(endured(asked.bundle, precision, clip, asked.hours, logged=logged))
        stderr.print(rows[-1])
        result = Result(
            model=manifest.name, hours=asked.hours, machine=machine(0, began), rows=rows
        )
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
