"""What must be true before a prediction may reach a controller; otherwise it gets a hold."""

from __future__ import annotations

import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.sources import StepData


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
