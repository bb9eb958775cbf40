"""A ViT-L from a Hugging Face folder to a bundle: how much memory, how large, how fast.

    python benchmarks/vit_large.py --folder out/vit-large    # about half an hour on two cores
    python benchmarks/vjepa2_tables.py                       # writes docs/bring-your-own-vjepa2.md

Random weights of V-JEPA 2's ViT-L (1024 x 24, its predictor too), 16 frames at 256. Every export is
a process of its own, whose largest resident memory the system tells; so is every run of a bundle's
encoder. TensorRT's graphs run in ONNX Runtime here, on the CPU: that time says nothing of a Jetson.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from jepa_edge.bench.facts import Machine, Timing
from jepa_edge.bench.machine import load, machine
from jepa_edge.bundle import open_bundle
from jepa_edge.front import stderr

RESULT = Path(__file__).parent / "results" / "vjepa2" / "vit-large.json"
FRAMES, PIXELS, CALLS = 16, 256, 5
SIZE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
EXPORTS = (("jetson", "fp16"), ("x86-cpu", "int8"))
RUN = """
import sys, time
from pathlib import Path
import msgspec, numpy as np
from jepa_edge.bench.measure import timing_from
from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.engine import host_engine
bundle, calls = open_bundle(Path(sys.argv[1])), int(sys.argv[2])
entry = bundle.manifest.precision(None)
graph = entry.graphs["encoder"]
hint = graph.inference_precision or entry.inference_precision
engine = host_engine(bundle.manifest.engine, bundle.path(graph.path), graph, hint)
random = np.random.default_rng(0)
clip = {s.name: random.standard_normal(s.shape).astype(np.float32) for s in engine.inputs}
times = []
for _ in range(calls + 1):
    began = time.perf_counter()
    out = engine.run(clip)
    times.append((time.perf_counter() - began) * 1e3)
assert all(np.isfinite(array).all() for array in out.values())
print(msgspec.json.encode((engine.precision_used, timing_from(times[1:]))).decode())
"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One target and precision.

    Attributes:
        export_peak_mib: the most resident memory of the process that exported.
        times_weights: that, as a multiple of the checkpoint's fp32 weights.
        cosine_p1: of the encoder's latents with the source's, on held-out clips.
        run_peak_mib: the most resident memory of the process that ran the encoder.
    """

    target: str
    precision: str
    export_s: float
    export_peak_mib: float
    times_weights: float
    bundle_mib: float
    cosine_p1: float
    precision_used: str
    clip: Timing
    run_peak_mib: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    frames: int
    pixels: int
    weights_mib: float
    machine: Machine
    rows: list[Row]


def make_checkpoint(folder: Path) -> None:
    """Writes the checkpoint, once."""
    import torch
    from transformers import VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    config = VJEPA2Config(crop_size=PIXELS, frames_per_clip=FRAMES, **SIZE)
    VJEPA2Model(config).save_pretrained(folder)


def measured(command: list[str]) -> tuple[bytes, float, float]:
    """The output of `command`, its seconds, and its peak resident MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"failed: {' '.join(command[:6])}")
    return said, time.perf_counter() - began, used.ru_maxrss / 1024


def row(folder: Path, weights_mib: float, target: str, precision: str) -> Row:
    """Exports and runs one."""
    out = folder / f"{target}-{precision}.jepa"
    asked = ["--target", target, "--precision", precision, "--frames", str(FRAMES)]
    export = [sys.executable, "-m", "jepa_edge.export", "--model", str(folder / "hf"), *asked]
    _, seconds, peak = measured([*export, "--out", str(out), "--json"])
    said, _, run_peak = measured([sys.executable, "-c", RUN, str(out), str(CALLS)])
    used, clip = msgspec.json.decode(said, type=tuple[str, Timing])
    encoder = open_bundle(out).manifest.precision(precision).graphs["encoder"]
    return Row(
        target=target,
        precision=precision,
        export_s=round(seconds, 1),
        export_peak_mib=round(peak),
        times_weights=round(peak / weights_mib, 2),
        bundle_mib=round(sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 2**20),
        cosine_p1=min(output.cosine_p1 for output in encoder.parity.values()),
        precision_used=used,
        clip=clip,
        run_peak_mib=round(run_peak),
    )


def main() -> None:
    """Exports, runs, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("out/vit-large"))
    parser.add_argument("--target", default="", help="only this one; the other rows stay")
    asked = parser.parse_args()
    folder: Path = asked.folder
    if not (folder / "hf").is_dir():
        make_checkpoint(folder / "hf")
    weights = sum(f.stat().st_size for f in (folder / "hf").glob("*.safetensors")) / 2**20
    began, rows = load(), {}
    if asked.target:
        before = msgspec.json.decode(RESULT.read_bytes(), type=Result)
        rows = {kept.target: kept for kept in before.rows}
    for target, precision in EXPORTS:
        if asked.target not in ("", target):
            continue
        rows[target] = row(folder, weights, target, precision)
        stderr.print(rows[target])
        result = Result(
            model="V-JEPA 2 ViT-L, random weights",
            frames=FRAMES,
            pixels=PIXELS,
            weights_mib=round(weights),
            machine=machine(0, began),
            rows=list(rows.values()),
        )
        text = json.dumps(msgspec.to_builtins(result), indent=1) + "\n"
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
