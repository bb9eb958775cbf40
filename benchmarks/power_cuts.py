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

RESULT = ROOT / "benchmarks" / "results" / "devices" / "power_cuts.json"


def main() -> None:
    """Writes the result only when every cut ended well."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="power-cuts-") as name, own_home(Path(name)) as home:
        bench = PowerBench(Path(name), home)
        rows = []
        try:
            for row in bench.cuts(given.cuts, given.seed):
                rows.append(row)
                sys.stderr.write(json.dumps(row) + "\n")
        finally:
            bench.drone.stop()
    found = {"machine": "qemu-system-x86_64, TCG, 2 cores", "seed": given.seed}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    fields = found | {"flash_s": round(bench.flash_s, 1), "cuts": rows}
    RESULT.write_text(json.dumps(fields, indent=1) + "\n")


if __name__ == "__main__":
    main()
