"""What the change gate saves, and what it costs: a robot that works and rests in turn.

    python benchmarks/change_gate.py dist/nano-x86-cpu.jepa --precision int8

In each world the expert acts for 8 steps, then the robot rests for 24 (an arm stands still; a drone
hovers in gusts), again and again. The same steps go through a plain stream and through gates of
several thresholds: the share of steps that were not encoded, the processor's time (this machine has
no power sensor, and that is what energy follows), and how far the latents are from the plain ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bench.pilots import step_of
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import FloatArray, Senses
from jepa_edge.front import stderr
from jepa_edge.runtimes.gate import GatedStream
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream
from jepa_edge.worlds.record import open_world

RESULT = Path(__file__).parent / "results" / "streaming" / "change-gate.json"
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)
ACTS, RESTS, TURNS, SCENES = 8, 24, 3, 4


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One world and threshold (0: no gate).

    Attributes:
        skipped: share of all steps that were not encoded.
        skipped_acting: share of those steps in which the robot acted.
        cpu_share: processor time of encoding and predicting, beside that without a gate.
        relative_l2: of the pooled latents, to those without a gate.
        worst_cosine: of one step's pooled latents, likewise.
    """

    world: str
    threshold: float
    steps: int
    skipped: float
    skipped_acting: float
    cpu_share: float
    relative_l2: float
    worst_cosine: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    precision: str
    machine: Machine
    rows: list[Row]


def scene(world_name: str, senses: Senses, seed: int) -> list[tuple[bool, StepData]]:
    """Steps of one scene, and whether the robot acted in each."""
    world = open_world(world_name)
    seen, _ = world.reset(seed=seed)
    steps, before = [], None
    for index in range(TURNS * (ACTS + RESTS)):
        acts = index % (ACTS + RESTS) < ACTS
        seen, *_ = world.step(world.expert() if acts else world.rest())
        steps.append((acts, step_of(seen, before, senses)))
        before = seen["samples"]
    world.close()
    return steps


def streamed(
    stream: Stream, steps: list[StepData], threshold: float
) -> tuple[FloatArray, list[bool], float]:
    """Pooled latents, which steps were skipped, and processor seconds."""
    stream.reset()
    gate = GatedStream(stream, threshold)
    pooled, skipped, began = [], [], time.process_time()
    for step in steps:
        before = gate.skipped
        answer = gate.encode(step)
        assert answer is not None
        gate.predict()
        pooled.append(answer[1])
        skipped.append(gate.skipped > before)
    return np.stack(pooled), skipped, time.process_time() - began


def measured(stream: Stream, world: str, senses: Senses) -> list[Row]:
    """One world, all thresholds in turns on each scene."""
    scenes = [scene(world, senses, 900 + index) for index in range(SCENES)]
    acts = np.array([acted for one in scenes for acted, _ in one])
    found: dict[float, list[tuple[FloatArray, list[bool], float]]] = {t: [] for t in THRESHOLDS}
    for one in scenes:
        for threshold in THRESHOLDS:
            found[threshold].append(streamed(stream, [step for _, step in one], threshold))
    plain = np.concatenate([pooled for pooled, *_ in found[0.0]])
    spent = sum(seconds for *_, seconds in found[0.0])
    rows = []
    for threshold, parts in found.items():
        pooled = np.concatenate([p for p, *_ in parts])
        left_out = np.concatenate([s for _, s, _ in parts])
        cosine = (pooled * plain).sum(1) / np.linalg.norm(pooled, axis=1)
        cosine /= np.linalg.norm(plain, axis=1)
        rows.append(
            Row(
                world=world,
                threshold=threshold,
                steps=len(plain),
                skipped=round(float(left_out.mean()), 3),
                skipped_acting=round(float(left_out[acts].mean()), 3),
                cpu_share=round(sum(seconds for *_, seconds in parts) / spent, 3),
                relative_l2=round(float(np.linalg.norm(pooled - plain) / np.linalg.norm(plain)), 4),
                worst_cosine=round(float(cosine.min()), 4),
            )
        )
        stderr.print(rows[-1])
    return rows


def main() -> None:
    """Measures both worlds, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", default="int8")
    asked = parser.parse_args()
    began, bundle = load(), open_bundle(asked.bundle)
    stream = Stream(bundle, asked.precision, threads=1)
    rows = [
        row
        for world in ("reach", "forest")
        for row in measured(stream, world, bundle.manifest.senses)
    ]
    result = Result(
        model=bundle.manifest.name,
        precision=asked.precision,
        machine=machine(1, began),
        rows=rows,
    )
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
