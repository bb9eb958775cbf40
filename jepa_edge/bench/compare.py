"""How close each precision's stream stays to the bundle's fp32, chained as it runs on the robot."""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, WrongUseError
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

REFERENCE = "fp32"


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A stream's latents: dense `[S*N, D]`, pooled `[S, P]`, predicted pooled `[S', P]`."""

    dense: FloatArray
    pooled: FloatArray
    future: FloatArray


class Closeness(msgspec.Struct, frozen=True, kw_only=True):
    """Cosine of one output to fp32, over tokens."""

    mean: float
    p1: float
    worst: float


def trace(bundle: Bundle, precision: str, recordings: list[list[StepData]], threads: int) -> Trace:
    """Everything a precision gives on `recordings`, each a stream of its own."""
    stream = Stream(bundle, precision, threads=threads)
    dense, pooled, future = [], [], []
    for steps in recordings:
        stream.reset()
        for step in steps:
            encoded = stream.encode(step)
            if encoded is None:
                continue
            dense.append(encoded[0])
            pooled.append(encoded[1])
            predicted = stream.predict()
            if predicted is not None:
                future.append(predicted[0])
    if not pooled or not future:
        raise WrongUseError(
            f"the clips are too short: a prediction needs {bundle.manifest.model.window} steps"
        )
    return Trace(dense=np.concatenate(dense), pooled=np.stack(pooled), future=np.stack(future))


def closeness(traces: dict[str, Trace]) -> dict[str, dict[str, Closeness]]:
    """Per precision and output; empty without fp32 in the bundle: nothing else is a reference."""
    if REFERENCE not in traces:
        return {}
    exact = traces[REFERENCE]
    pairs = {
        name: (
            ("latents", found.dense, exact.dense),
            ("pooled", found.pooled, exact.pooled),
            ("prediction", found.future, exact.future),
        )
        for name, found in traces.items()
    }
    return {name: {key: _cosine(a, b) for key, a, b in rows} for name, rows in pairs.items()}


def _cosine(a: FloatArray, b: FloatArray) -> Closeness:
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    cosine = (x * y).sum(1) / np.maximum(norms, 1e-12)
    return Closeness(
        mean=round(float(cosine.mean()), 6),
        p1=round(float(np.percentile(cosine, 1)), 6),
        worst=round(float(cosine.min()), 6),
    )
