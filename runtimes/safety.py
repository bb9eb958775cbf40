"""What must be true before anything may move; every decision about it is in this one file.

Nothing here reads a clock, a socket or a file: what is known goes in, what may be done comes out.
`Watchdog` judges what the model is given, `Guard` what a vehicle is given. Neither ever gives an
old action again: what is missing, late or strange becomes a hold. Every branch is tested, and every
mutant of this file fails a test (``tests/runtimes/test_safety_mutants.py``).
"""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.sources import StepData


class WatchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a sense may show nothing new; 0: it may for ever (a still picture is no fault)."""

    frozen_after_s: float = 0.0
    silent_after_s: float = 0.0


class Watchdog:
    """Says which steps may not be encoded: faulty, not finite, frozen, or digitally silent.

    A real camera has noise: a picture that is the same to the last bit is a dead one. So is sound
    whose features are one constant. Each is told apart from a scene at rest by exact equality.
    """

    def __init__(self, limits: WatchLimits | None = None) -> None:
        self.limits = limits or WatchLimits()
        self._shown: FloatArray | None = None
        self._moved_ns = self._heard_ns = 0

    def refusal(self, step: StepData) -> str:
        """Why `step` may not be encoded; empty if it may."""
        return unsafe_input(step) or self._frozen(step) or self._silent(step)

    def _frozen(self, step: StepData) -> str:
        if step.video is None:
            return ""
        before, self._shown = self._shown, step.video[:, :, -1:]
        if before is None or not (step.video == before).all():
            self._moved_ns = step.captured_ns
        still_s = (step.captured_ns - self._moved_ns) / 1e9
        return _stuck(still_s, self.limits.frozen_after_s, "camera shows one frozen picture")

    def _silent(self, step: StepData) -> str:
        if step.audio is None:
            return ""
        if self._heard_ns == 0 or step.audio.min() != step.audio.max():
            self._heard_ns = step.captured_ns
        silent_s = (step.captured_ns - self._heard_ns) / 1e9
        return _stuck(silent_s, self.limits.silent_after_s, "microphone gives digital silence")


def _stuck(lasted_s: float, limit_s: float, what: str) -> str:
    return f"{what} for {lasted_s:.1f} s" if 0 < limit_s <= lasted_s else ""


def unsafe_input(step: StepData) -> str:
    """Why `step` may not be encoded; empty if it may."""
    if step.fault:
        return step.fault
    for name, array in (("video", step.video), ("audio", step.audio)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} is not finite"
    return ""


def unsafe_output(pooled: FloatArray | None, future: FloatArray | None) -> str:
    """Why these latents may not be used; empty if they may."""
    for name, array in (("latents", pooled), ("prediction", future)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} not finite"
    return ""


def too_old(age_ms: float, limit_ms: float) -> str:
    """Why data of this age may not be acted on; empty if it may."""
    return f"data is {age_ms:.0f} ms old, the limit is {limit_ms:.0f}" if age_ms > limit_ms else ""
