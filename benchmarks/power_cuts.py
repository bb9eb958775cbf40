"""Cuts the power of a virtual machine ten times while it is flashed; writes what it ended on.

sudo .venv/bin/python benchmarks/power_cuts.py            # about ten minutes on two cores

The guest is Debian with its own kernel, systemd and OpenSSH under full software emulation
(examples/virtual_drone.sh, vm). Its release is a small one: the model would only take long to load.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.devices.flashing import own_home  # noqa: E402
from tests.devices.power import PowerBench  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "devices" / "power_cuts.jsonl"


def main() -> None:
    """Keeps every cut as it ends; a run that was stopped goes on with the next one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    known = (
        [json.loads(line) for line in RESULT.read_text().splitlines()] if RESULT.exists() else []
    )
    done = sum(row["seed"] == given.seed for row in known)
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as name, own_home(Path(name)) as home:
        bench = PowerBench(Path(name), home)
        try:
            for row in bench.cuts(given.cuts, given.seed, first=done):
                whole = {**row, "seed": given.seed, "flash_s": round(bench.flash_s, 1)}
                with RESULT.open("a") as file:
                    file.write(json.dumps(whole) + "\n")
                sys.stderr.write(json.dumps(whole) + "\n")
        finally:
            bench.drone.stop()


if __name__ == "__main__":
    main()
