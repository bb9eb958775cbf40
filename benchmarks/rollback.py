"""How long the way back takes on a virtual x86-64 drone; writes the result for docs/devices.md.

jepa-edge export --target generic-onnx --precision int8 --out b.jepa
sudo .venv/bin/python benchmarks/rollback.py --bundle b.jepa      # on a quiet machine
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from jepa_edge.contract import JepaEdgeError
from jepa_edge.devices.flash.pipeline import FlashConfig, roll_back

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.devices.drone import Drone  # noqa: E402
from tests.devices.flashing import Bench, crashing, exposure, own_home, real_release  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "devices" / "service.json"
WAY = FlashConfig(device="generic-onnx")


def rollback_s(bench: Bench, count: int) -> list[float]:
    """Seconds from the command until the release before is running and healthy."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter()
        asyncio.run(roll_back(bench.drone.host, WAY, bench.hear))
        taken.append(round(time.perf_counter() - begun, 2))
    return taken


def unhealthy_s(bench: Bench) -> float:
    """Seconds from the start of a release that crashes until the old one is healthy again."""
    started: list[float] = []

    def hear(_host: str, what: str, _done: int, _total: int) -> None:
        if "on trial" in what and not started:
            started.append(time.perf_counter())

    with suppress(JepaEdgeError):
        bench.flash(bench.release(unit=crashing), hear)
    bench.assert_runs(bench.running)
    return round(time.perf_counter() - started[0], 2)


def measure(folder: Path, home: Path, bundle: Path, count: int) -> dict[str, object]:
    """All measurements on one drone."""
    drone = Drone("amd64", folder / "drone", home)
    try:
        bench = Bench(folder, drone, real_release(folder, bundle))
        bench.flash(bench.release())
        taken = rollback_s(bench, 2 * (count // 2) + 1)  # ends on the first
        back = {"count": len(taken), "median": statistics.median(taken)}
        return {
            "bundle": bench.base.fields["name"],
            "rollback_s": back | {"min": min(taken), "max": max(taken), "all": taken},
            "unhealthy_s": unhealthy_s(bench),
            "exposure": exposure(drone),
        }
    finally:
        drone.stop()


def main() -> None:
    """Writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollback-") as name, own_home(Path(name)) as home:
        found = measure(Path(name), home, given.bundle.resolve(), given.count)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
