"""The process `measure.peak_rss_mib` starts: opens a variant, runs each graph, prints its peak."""

from __future__ import annotations

import sys
from pathlib import Path

from jepa_edge.bench.machine import status_mib
from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.engine import open_engine


def peak_mib(folder: Path, precision: str, threads: int) -> float:
    """MiB this process held at its peak, everything it imported included."""
    bundle = open_bundle(folder, verify=False)
    engines = [
        open_engine(bundle, name, precision, threads=threads)
        for name in bundle.manifest.precision(precision).graphs
    ]
    for engine in engines:
        engine.run({spec.name: spec.zeros() for spec in engine.inputs})
    return status_mib("VmHWM")


if __name__ == "__main__":
    sys.stdout.write(f"{peak_mib(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])):.1f}\n")
