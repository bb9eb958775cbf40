"""The loop on the robot: capture, encode, predict, check, hand over; once a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Literal, Protocol

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, JepaEdgeError
from jepa_edge.runtimes.board import UNKNOWN, Board, BoardState
from jepa_edge.runtimes.planner import Plan
from jepa_edge.runtimes.pulse import Pulse
from jepa_edge.runtimes.remote.wire import LinkError
from jepa_edge.runtimes.safety import Watchdog, too_old, unsafe_output
from jepa_edge.runtimes.sources import Source, StepData
from jepa_edge.runtimes.surprise import Calibration


class Tick(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller gets each step. On ``hold`` it gets nothing to act on, never old things.

    ``seen``, which the recorder alone gets: a step that a lowered rate does not encode.
    ``warming``: the model has not yet seen a whole window without a hole, so it predicts nothing.
    ``action [A]``, in [-1, 1], is what to do until the next tick; None: nothing, which for a robot
    means to stop.
    """

    step: int
    captured_ns: int
    state: Literal["warming", "ok", "hold", "seen"]
    reason: str = ""
    path: str = "edge"
    """Who thought: the board (``edge``) or a server (``cloud``)."""
    dropped: int = 0
    encode_ms: float | None = None
    predict_ms: float | None = None
    plan_ms: float | None = None
    latency_ms: float = 0.0
    age_ms: float = 0.0
    surprise: float | None = None
    surprise_p: float | None = None
    """The share of recent steps that surprised at least as much (`Calibration`): small is rare."""
    goal_distance: float | None = None
    action: list[float] | None = None
    latent: list[float] | None = None
    prediction: list[list[float]] | None = None
    board: BoardState | None = None
    """How hot the board is and what it draws; None: it does not tell."""


class Streaming(Protocol):
    """Steps in, latents and predictions out; on board, on a server, or on whichever is in time."""

    @property
    def path(self) -> str:
        """Whose answer the last step got: ``edge`` or ``cloud``."""

    @property
    def is_warm(self) -> bool:
        """See `Stream.is_warm`."""

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """See `Stream.encode`. After a `LinkError` the stream is whole, and may go on."""

    def predict(self) -> FloatArray | None:
        """See `Stream.predict`."""

    def reset(self) -> None:
        """See `Stream.reset`."""


class Rate(Protocol):
    """Who may lower the rate."""

    @property
    def every(self) -> int:
        """How many steps there are to one that is encoded."""

    def leaves_out(self, step: StepData) -> bool:
        """Whether `step` is not encoded; then it has been remembered."""


class Piloting(Protocol):
    """Latents in, plans out."""

    def act(self, pooled: FloatArray, *, ready: bool) -> Plan | None:
        """See `Pilot.act`."""

    def forget(self) -> None:
        """See `Pilot.forget`."""


Answer = tuple[FloatArray | None, FloatArray | None]
Recorder = Callable[[StepData, Tick, FloatArray | None, FloatArray | None], None]
"""Gets every step with its tick, the pooled latent `[P]` and the future `[J, P]`."""


class Loop:
    """Drives a stream from a source; each failure is one hold, and the next step starts anew."""

    def __init__(
        self,
        stream: Streaming,
        *,
        age_limit_ms: float,
        goal: FloatArray | None = None,
        pilot: Piloting | None = None,
        watchdog: Watchdog | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.stream, self.age_limit_ms, self.goal = stream, age_limit_ms, goal
        self.pilot, self.watchdog = pilot, watchdog or Watchdog()
        self.recorder = recorder
        self.rate: Rate | None = None
        self.pulse = Pulse()
        self.board = Board()
        self._expected: FloatArray | None = None
        self._answer: Answer = (None, None)
        self.planned: FloatArray | None = None
        """Where the last step's plan leads, latents `[J, P]`; None: there was none."""
        self._usual = Calibration()
        self._path = stream.path

    def ticks(self, source: Source) -> Generator[Tick]:
        """One tick for each step of `source` that the rate does not leave out."""
        for step in source.steps():
            self._answer, self.planned = (None, None), None
            self.pulse.mark()
            tick = self._tick(step)
            if (state := self.board.state()) != UNKNOWN:
                tick = msgspec.structs.replace(tick, board=state)
            self.pulse.rest()
            if self.recorder is not None:
                self.recorder(step, tick, *self._answer)
            if tick.state != "seen":
                yield tick

    def _tick(self, step: StepData) -> Tick:
        began_ns = time.monotonic_ns()
        if step.dropped:
            self._forget()  # a window with a hole is no clip: its steps are not evenly spaced
        if reason := self.watchdog.refusal(step):
            return self._hold(step, reason, began_ns)
        if self.rate and self.rate.leaves_out(step):
            return Tick(step=step.index, captured_ns=step.captured_ns, state="seen")
        return self._answered(step, began_ns)

    def _answered(self, step: StepData, began_ns: int) -> Tick:
        try:
            encoded = self.stream.encode(step)
            encoded_ns = time.monotonic_ns()
            self.pulse.mark()
            future = self.stream.predict() if encoded else None
            predicted_ns = time.monotonic_ns()
            self.pulse.mark()
            plan = self._plan(encoded[1]) if encoded else None
        except LinkError as error:
            self._expected = None
            return self._held(step, f"link: {error}", began_ns)
        except (ArithmeticError, LookupError, RuntimeError, ValueError, JepaEdgeError) as error:
            return self._hold(step, f"engine: {error}", began_ns)
        done_ns = time.monotonic_ns()
        pooled = encoded[1] if encoded else None
        age_ms = (done_ns - step.captured_ns) / 1e6
        if reason := unsafe_output(pooled, future) or too_old(age_ms, self.age_limit_ms):
            return self._hold(step, reason, began_ns)
        if self._path != self.stream.path:
            self._path, self._expected = self.stream.path, None  # another model's latents
        self._answer, self.planned = (pooled, future), plan.latents if plan else None
        surprise = self._surprise(pooled)
        ahead = self.rate.every - 1 if self.rate else 0
        self._expected = None if future is None or len(future) <= ahead else future[ahead]
        return Tick(
            step=step.index,
            captured_ns=step.captured_ns,
            state="ok" if self.stream.is_warm else "warming",
            path=self.stream.path,
            dropped=step.dropped,
            encode_ms=round((encoded_ns - began_ns) / 1e6, 3),
            predict_ms=None if future is None else round((predicted_ns - encoded_ns) / 1e6, 3),
            plan_ms=None if plan is None else plan.took_ms,
            latency_ms=round((done_ns - began_ns) / 1e6, 3),
            age_ms=round(age_ms, 3),
            surprise=surprise,
            surprise_p=None if surprise is None else self._usual.score(surprise),
            goal_distance=self._goal_distance(pooled, future),
            action=None if plan is None else _rounded(plan.actions[0]),
            latent=None if pooled is None else _rounded(pooled),
            prediction=None if future is None else [_rounded(ahead) for ahead in future],
        )

    def _plan(self, pooled: FloatArray) -> Plan | None:
        if self.pilot is None or not np.isfinite(pooled).all():
            return None
        return self.pilot.act(pooled, ready=self.stream.is_warm)

    def _surprise(self, pooled: FloatArray | None) -> float | None:
        if self._expected is None or pooled is None:
            return None
        return distance(self._expected, pooled)

    def _goal_distance(self, pooled: FloatArray | None, future: FloatArray | None) -> float | None:
        """Of the farthest prediction, or of the present where the model predicts nothing."""
        reached = future[-1] if future is not None else pooled
        if self.goal is None or reached is None or not self.stream.is_warm:
            return None
        return distance(reached, self.goal)

    def _forget(self) -> None:
        self.stream.reset()
        self._expected = None
        if self.pilot is not None:
            self.pilot.forget()

    def _hold(self, step: StepData, reason: str, began_ns: int) -> Tick:
        self._forget()
        return self._held(step, reason, began_ns)

    def _held(self, step: StepData, reason: str, began_ns: int) -> Tick:
        """A hold that leaves what is remembered as it is."""
        now_ns = time.monotonic_ns()
        return Tick(
            step=step.index,
            captured_ns=step.captured_ns,
            state="hold",
            reason=reason,
            dropped=step.dropped,
            latency_ms=round((now_ns - began_ns) / 1e6, 3),
            age_ms=round((now_ns - step.captured_ns) / 1e6, 3),
        )


def distance(predicted: FloatArray, actual: FloatArray) -> float:
    """Relative L2 distance of `predicted [P]` from `actual [P]`: 0 is exact."""
    size = float(np.linalg.norm(actual)) or 1.0
    return round(float(np.linalg.norm(predicted - actual)) / size, 5)


def _rounded(values: FloatArray) -> list[float]:
    return [round(float(value), 4) for value in values]
