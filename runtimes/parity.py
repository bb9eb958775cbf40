"""How close the exported graphs are, in the real engine, to eager fp32 on named real clips."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from jepa_edge.bundle import OutputParity
from jepa_edge.contract import Feed, FloatArray, Tensors
from jepa_edge.runtimes.engine import Engine
from jepa_edge.runtimes.ring import ring_of

FLOORS: dict[str, tuple[float, float]] = {
    "fp32": (0.9999, 0.9999),
    "fp16": (0.9995, 0.99),
    "bf16": (0.9995, 0.99),
    "int8w": (0.999, 0.99),
    "fp8": (0.995, 0.98),
    "mixed": (0.99, 0.97),
    "int8": (0.99, 0.97),
    "int4w": (0.98, 0.95),
}
"""Per precision the lowest mean and 1st-percentile cosine that may be shipped."""

ROWS_AT_ONCE = 1024
"""Compared in double precision at once, so that a large model's many tokens take little memory."""

JUDGED = (
    "latents",
    "pooled",
    "future",
    "future_pooled",
    "predicted",
    "logits",
    "rollout",
    "next_latents",
)
"""What a controller consumes; caches are judged through what comes out of them, class scores as
probabilities (the scores of an unsure head are tiny, their direction means nothing)."""


def parity_of(engine: Engine, feeds: Sequence[Feed]) -> dict[str, OutputParity]:
    """Per judged output, over every token of every feed; streams and rollouts feed themselves."""
    ours: dict[str, list[FloatArray]] = {}
    theirs: dict[str, list[FloatArray]] = {}
    streams = any(spec.name == "turn" for spec in engine.inputs)
    ring = ring_of(engine) if streams else None
    carried: Tensors = {}
    for feed in feeds:
        if ring is None:
            kept = {} if feed.begins else carried
            outputs = engine.run({**feed.inputs, **kept})
            fed_back = {n.removeprefix("next_"): a for n, a in outputs.items() if "next_" in n}
            carried = {name: array for name, array in fed_back.items() if name in feed.inputs}
        else:
            if feed.begins:
                ring = ring_of(engine)
            outputs = engine.run({**feed.inputs, **ring.feed()})
            ring.take(outputs)
        for name in JUDGED:
            if name in outputs:
                width = outputs[name].shape[-1]
                for sides, array in ((ours, outputs[name]), (theirs, feed.outputs[name])):
                    flat = array.reshape(-1, width)
                    sides.setdefault(name, []).append(
                        probabilities(flat) if name == "logits" else flat
                    )
    return {
        name: compared(np.concatenate(ours[name]), np.concatenate(theirs[name])) for name in ours
    }


def probabilities(logits: FloatArray) -> FloatArray:
    """Class probabilities `[n, classes]` of `logits`."""
    raised: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: FloatArray = raised / raised.sum(axis=-1, keepdims=True)
    return shares


def missed(parity: dict[str, OutputParity], precision: str) -> list[str]:
    """What falls below the floors of `precision`, as sentences."""
    mean, p1 = FLOORS[precision]
    found = []
    for name, got in parity.items():
        if not got.cosine_mean >= mean:
            found.append(f"{name}: mean cosine {got.cosine_mean:.5f}, needs {mean}")
        if not got.cosine_p1 >= p1:
            found.append(f"{name}: 1st-percentile cosine {got.cosine_p1:.5f}, needs {p1}")
    return found


def compared(ours: FloatArray, theirs: FloatArray) -> OutputParity:
    """`[n, D]` against `[n, D]`, token by token."""
    cosines, wrong, whole = [], 0.0, 0.0
    for start in range(0, len(ours), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        a, b = ours[rows].astype(np.float64), theirs[rows].astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines.append((a * b).sum(1) / np.maximum(norms, 1e-12))
        wrong += float(np.square(a - b).sum())
        whole += float(np.square(b).sum())
    cosine, error = np.concatenate(cosines), math.sqrt(wrong) / max(math.sqrt(whole), 1e-12)
    return OutputParity(
        cosine_mean=round(float(cosine.mean()), 7),
        cosine_p1=round(float(np.percentile(cosine, 1)), 7),
        cosine_worst=round(float(cosine.min()), 7),
        relative_l2=round(float(error), 7),
    )
