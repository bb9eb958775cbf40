"""What a short distillation mends: nano with channel-wise int4 weights, before and after.

    python benchmarks/repair.py --folder out/repair && python benchmarks/quantization_tables.py

Every row is a bundle made by `jepa-edge quantize --repair-steps N`, judged as it always is: error
on held-out clips, and the share of 160 decisions in which its planner chooses fp32's action. It is
taught with the ten clips of the package, or with 160 recorded episodes. Bundles that are in the
folder are not made again.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import msgspec

from jepa_edge.bundle import Check, open_bundle
from jepa_edge.front import stderr

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "examples" / "int4-channelwise.toml"
RESULT = Path(__file__).with_suffix(".json")
BUILTIN, RECORDED = "builtin", "recorded"
WAYS = ((0, BUILTIN), (100, BUILTIN), (300, BUILTIN), (300, RECORDED))
GATE = "chooses fp32's actions"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """So many steps of distillation: relative L2 by graph and output, and the gate's words."""

    steps: int
    taught_with: str
    relative_l2: dict[str, float]
    gate: Check
    same_action: float
    """Share of the decisions."""


def recorded(folder: Path) -> list[str]:
    """Episodes of both worlds, recorded if they are not there."""
    found = []
    for world, level in (("reach", "all"), ("forest", "")):
        out = str(folder / world)
        asked = ["--world", world, "--level", level, "--episodes", "80", "--steps", "24"]
        subprocess.run(["jepa-edge", "record", *asked, "--seed", "77", "--out", out], check=True)
        found.append(out)
    return found


def main() -> None:
    """Makes and judges each, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/repair"))
    folder = parser.parse_args().folder
    source = folder / "nano.jepa"
    os.environ["JEPA_EDGE_CACHE"] = str(folder / "cache")  # or an earlier run's weights are taken
    if not source.exists():
        asked = ["--target", "x86-cpu", "--precision", "fp32", "--out", str(source)]
        subprocess.run(["jepa-edge", "export", *asked], check=True)
    rows = []
    for steps, data in WAYS:
        out = folder / f"int4w-{steps}-{data}.jepa"
        how = ["--precision", "int4w", "--recipe", str(RECIPE), "--repair-steps", str(steps)]
        files = ["--bundle", str(source), "--out", str(out), "--keep-failing"]
        if data == RECORDED:
            how += ["--calibration", ",".join(recorded(folder))]
        if not out.exists():
            subprocess.run(["jepa-edge", "quantize", *files, *how], check=True)
        graphs = open_bundle(out).manifest.precisions["int4w"].graphs
        gate = next(c for c in graphs["rollout"].checks if c.name == GATE)
        share = re.search(r"([\d.]+)% (?:in|of) \d+ decisions", gate.detail)
        assert share is not None, gate
        errors = {
            f"{name} {output}": round(parity.relative_l2, 4)
            for name, graph in graphs.items()
            for output, parity in graph.parity.items()
        }
        rows.append(
            Row(
                steps=steps,
                taught_with=data,
                relative_l2=errors,
                gate=gate,
                same_action=round(float(share[1]) / 100, 4),
            )
        )
        stderr.print(rows[-1])
        RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")


if __name__ == "__main__":
    main()
