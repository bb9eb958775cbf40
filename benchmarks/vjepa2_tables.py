"""Writes the tables between the markers of docs/bring-your-own-vjepa2.md; `--check` only looks.

They come from the committed results of `vjepa2_latency.py`, one table for each, and of
`vit_large.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from make_tables import replaced, rewritten

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "vjepa2"
GUIDE = ROOT / "docs" / "bring-your-own-vjepa2.md"
EAGER, PLAIN = "transformers eager fp32", "plain ONNX Runtime fp32"
QUIET = 1.5
"""Load beyond the benchmark's own threads up to which wall time means something."""


def latency_table(found: dict[str, Any]) -> str:
    """One result as Markdown: times, and how many times as fast as two of the other ways."""
    machine, threads, results = found["machine"], found["threads"], found["results"]
    busy = machine["load_1min"] > QUIET * threads
    kind = "cpu_ms_p50" if busy else "wall_ms_p50"
    unit = "processor ms" if busy else "ms"
    head = ["way", unit, "times eager", "times plain ONNX Runtime", "relative L2"]
    rows = [head, ["---", *["---:"] * 4]]
    for name, one in results.items():
        took = one[kind]
        speeds = (f"{results[other][kind] / took:.2f}" for other in (EAGER, PLAIN))
        rows.append([name, f"{took:.0f}", *speeds, f"{one['relative_l2']:.1e}"])
    floors = ", ".join(f"{name} {ms:.0f} ms" for name, ms in found["floor_ms"].items())
    plural = "" if threads == 1 else "s"
    title = (
        f"**ViT-{found['size']}, {found['frames']} frames at {found['pixels']}** "
        f"({', '.join(found['flags'])}; medians of "
        f"{found['rounds']} calls in turns, {threads} thread{plural}, load "
        f"{machine['load_1min']:.0f}; matrix products alone: {floors})"
    )
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return f"{title}\n\n{lines}\n"


def large_table(found: dict[str, Any]) -> str:
    """What `vit_large.py` measured, as Markdown."""
    head = [
        "target, precision",
        "export s",
        "export's peak MiB",
        "x fp32 weights",
        "bundle MiB",
        "worst p1 cosine",
        "clip ms",
        "run's peak MiB",
    ]
    rows = [head, ["---", *["---:"] * 7]]
    for one in found["rows"]:
        numbers = (
            f"{one['export_s']:.0f}",
            f"{one['export_peak_mib']:.0f}",
            f"{one['times_weights']:.2f}",
            f"{one['bundle_mib']:.0f}",
            f"{one['cosine_p1']:.4f}",
            f"{one['clip']['median_ms']:.0f}",
            f"{one['run_peak_mib']:.0f}",
        )
        rows.append([f"{one['target']}, {one['precision']}", *numbers])
    lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    title = (
        f"**{found['model']}, {found['frames']} frames at {found['pixels']}, its predictor too** "
        f"({found['weights_mib']} MiB of fp32 weights; load {found['machine']['load_1min']:.1f})"
    )
    return f"{title}\n\n{lines}\n"


def markdown() -> str:
    """A table for each result."""
    files = sorted(RESULTS.glob("latency-*.json"))
    found = [latency_table(json.loads(file.read_bytes())) for file in files]
    large = RESULTS / "vit-large.json"
    found += [large_table(json.loads(large.read_bytes()))] if large.is_file() else []
    return "\n".join(found)


if __name__ == "__main__":
    sys.exit(rewritten(GUIDE, lambda old: replaced(old, markdown())))
