"""The loop on the robot: capture, encode, predict, check, hand over; once a step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, JepaEdgeError
from jepa_edge.runtimes.safety import too_old, unsafe_input, unsafe_output
from jepa_edge.runtimes.sources import Source, StepData
from jepa_edge.runtimes.stream import Stream


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller gets each step. On ``hold`` it gets no latents, never old ones."""

    step: int
    captured_ns: int
    state: Literal["warming", "ok", "hold"]
    reason: str = ""
    dropped: int = 0
    encode_ms: float = 0.0
    predict_ms: float = 0.0
    latency_ms: float = 0.0
    age_ms: float = 0.0
    surprise: float | None = None
    goal_distance: float | None = None
    latent: list[float] | None = None
    prediction: list[list[float]] | None = None


class Loop:
    """Drives a stream from a source; each failure is one hold, and the next step starts anew."""

    def __init__(
        self, stream: Stream, *, age_limit_ms: float, goal: FloatArray | None = None
    ) -> None:
        self.stream, self.age_limit_ms, self.goal = stream, age_limit_ms, goal
        self._expected: FloatArray | None = None

    def ticks(self, source: Source) -> Iterator[Tick]:
        """One tick for each step of `source`."""
        for step in source.steps():
            if step.dropped:
                self._expected = None  # the prediction was of a step that nobody saw
            yield self._tick(step)

    def _tick(self, step: StepData) -> Tick:
        began = time.monotonic_ns()
        if reason := unsafe_input(step):
            return self._hold(step, reason)
        try:
            encoded = self.stream.encode(step)
            encoded_ns = time.monotonic_ns()
            future = self.stream.predict() if encoded else None
        except (RuntimeError, ValueError, JepaEdgeError) as error:
            return self._hold(step, f"engine: {error}")
        done = time.monotonic_ns()
        if encoded is None:
            return self._warming(step)
        pooled = encoded[1]
        age_ms = (done - step.captured_ns) / 1e6
        if reason := unsafe_output(pooled, future) or too_old(age_ms, self.age_limit_ms):
            return self._hold(step, reason)
        surprise = None if self._expected is None else distance(self._expected, pooled)
        self._expected = None if future is None else future[0]
        return Tick(
            step=step.index,
            captured_ns=step.captured_ns,
            state="warming" if future is None and self.stream.predictor else "ok",
            dropped=step.dropped,
            encode_ms=round((encoded_ns - began) / 1e6, 3),
            predict_ms=round((done - encoded_ns) / 1e6, 3),
            latency_ms=round((done - began) / 1e6, 3),
            age_ms=round(age_ms, 3),
            surprise=surprise,
            goal_distance=self._goal_distance(future),
            latent=_rounded(pooled),
            prediction=None if future is None else [_rounded(ahead) for ahead in future],
        )

    def _goal_distance(self, future: FloatArray | None) -> float | None:
        if self.goal is None or future is None:
            return None
        return distance(future[-1], self.goal)

    def _warming(self, step: StepData) -> Tick:
        return Tick(step=step.index, captured_ns=step.captured_ns, state="warming")

    def _hold(self, step: StepData, reason: str) -> Tick:
        self.stream.reset()
        self._expected = None
        return Tick(
            step=step.index,
            captured_ns=step.captured_ns,
            state="hold",
            reason=reason,
            dropped=step.dropped,
        )


def distance(predicted: FloatArray, actual: FloatArray) -> float:
    """Relative L2 distance of `predicted [P]` from `actual [P]`: 0 is exact."""
    size = float(np.linalg.norm(actual)) or 1.0
    return round(float(np.linalg.norm(predicted - actual)) / size, 5)


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 4) for value in values]
