"""What a robot installs, and how long a start takes: size by package, cold and warm start.

python benchmarks/install_size.py dist/nano-x86-cpu.jepa FOLDER

Makes an environment without torch in FOLDER (`pip install jepa-edge[…]`), runs the bundle on a clip
there, and times from the start of the process to its first tick. Cold: the pages of the files are
dropped from the cache first (`posix_fadvise`); warm: right again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bundle import open_bundle

ROOT = Path(__file__).resolve().parent.parent
CLIP = ROOT / "jepa_edge" / "assets" / "clips" / "forest-000.mp4"
RESULT = Path(__file__).parent / "results" / "streaming" / "install.json"
ROUNDS = 5
MIB = 1 << 20


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    extras: str
    bundle: str
    total_mib: float
    packages_mib: dict[str, float]
    bundle_mib: float
    first_tick_cold_s: list[float]
    first_tick_warm_s: list[float]
    torch_is_absent: bool
    machine: Machine


def measure(bundle: Path, folder: Path) -> Result:
    """Installs, and starts it again and again."""
    engine = open_bundle(bundle).manifest.engine
    extras = f"{engine},sensors,log"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
        subprocess.run([*command, f"{ROOT}[{extras}]"], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    sizes = {place.name: _size(place) for place in site.iterdir()}
    large = sorted(sizes.items(), key=lambda item: -item[1])[:12]
    cold, warm = [], []
    for _ in range(ROUNDS):
        _forget(site)
        _forget(bundle)
        cold.append(_first_tick(python, bundle))
        warm.append(_first_tick(python, bundle))
    return Result(
        extras=extras,
        bundle=bundle.name,
        total_mib=round(sum(sizes.values()) / MIB, 1),
        packages_mib={name: round(size / MIB, 1) for name, size in large},
        bundle_mib=round(_size(bundle) / MIB, 1),
        first_tick_cold_s=cold,
        first_tick_warm_s=warm,
        torch_is_absent=not (site / "torch").exists(),
        machine=machine(0, load()),
    )


def _first_tick(python: Path, bundle: Path) -> float:
    """Seconds from the start of the process to its first line."""
    command = [python, "-m", "jepa_edge.runtimes", "--bundle", bundle.resolve(), "--fast"]
    began = time.monotonic()
    with subprocess.Popen(
        [*command, "--steps", "1", "--camera", CLIP],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=python.parent,
    ) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        taken = time.monotonic() - began
    assert b'"step":0' in line
    return round(taken, 3)


def _size(place: Path) -> int:
    files = [place] if place.is_file() else [f for f in place.rglob("*") if f.is_file()]
    return sum(file.lstat().st_size for file in files if "__pycache__" not in file.parts)


def _forget(folder: Path) -> None:
    """Drops the pages of every file below `folder` from the cache."""
    os.sync()
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), Path(sys.argv[2]))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    cold, warm = np.median(found.first_tick_cold_s), np.median(found.first_tick_warm_s)
    sys.stderr.write(f"{found.total_mib} MiB; first tick {cold:.2f} s cold, {warm:.2f} s warm\n")
