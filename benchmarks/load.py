"""Load: 1 to 32 simulated robots on one server of this machine; writes results/load/*.json.

jepa-edge export --precision fp32,int8 --out dist/nano.jepa
python benchmarks/load.py --bundle dist/nano.jepa --precision int8

Servers with different settings take turns for each number of robots. The robots' process shares the
cores with the server: the ratios count, not the numbers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from jepa_edge.bench import machine
from jepa_edge.bench.facts import Machine
from jepa_edge.bench.network.load import LoadFacts, load
from jepa_edge.bundle import open_bundle

OUT = Path(__file__).resolve().parent / "results" / "load"
SETTINGS = {
    "one engine": ["--batch", "1", "--parallel", "1", "--threads", "0"],
    "two engines side by side": ["--batch", "1", "--parallel", "2", "--threads", "1"],
    "batches": ["--batch", "8", "--parallel", "1", "--threads", "0"],
}


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run measured."""

    bundle: str
    precision: str
    machine: Machine
    steps: int
    period_s: float
    results: dict[str, list[LoadFacts]]


@contextmanager
def served(bundle: Path, precision: str, flags: list[str]) -> Iterator[str]:
    """The URI of a server process."""
    command = [sys.executable, "-m", "jepa_edge.runtimes.serve", "--bundle", str(bundle), "--json"]
    command += ["--precision", precision, "--port", "0", "--http-port", "-1", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield f"grpc://127.0.0.1:{json.loads(process.stdout.readline())['grpc']}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def main() -> None:
    """Measures, prints a line each, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--robots", default="1,4,8,16,32")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--period-s", type=float, default=0.2)
    given = parser.parse_args()
    bundle = open_bundle(given.bundle)
    manifest = msgspec.structs.replace(bundle.manifest, default_precision=given.precision)
    bundle = msgspec.structs.replace(bundle, manifest=manifest)
    wanted = dict(SETTINGS)
    if not manifest.precision(given.precision).batched:
        del wanted["batches"]  # there is no graph for several robots at once in this bundle
    before = machine.load()
    results: dict[str, list[LoadFacts]] = {name: [] for name in wanted}
    for robots in map(int, given.robots.split(",")):
        for name, flags in wanted.items():
            with served(given.bundle, given.precision, flags) as uri:
                load(bundle, uri, 1, steps=5, period_s=0.05)
                facts, _ = load(bundle, uri, robots, steps=given.steps, period_s=given.period_s)
            results[name].append(facts)
            sys.stdout.write(f"{name}: {facts}\n")
            sys.stdout.flush()
    report = LoadReport(
        bundle=manifest.name,
        precision=given.precision,
        machine=machine.machine(0, before),
        steps=given.steps,
        period_s=given.period_s,
        results=results,
    )
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{manifest.name}-{given.precision}.json"
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


if __name__ == "__main__":
    main()
