"""What must be true before a prediction may reach a controller; otherwise it gets a hold."""

from __future__ import annotations

import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.sources import StepData


def unsafe_input(step: StepData) -> str | None:
    """Why `step` may not be encoded; None if it may."""
    for name, array in (("video", step.video), ("audio", step.audio)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} is not finite"
    return None


def unsafe_output(pooled: FloatArray, future: FloatArray | None) -> str | None:
    """Why these latents may not be used; None if they may."""
    for name, array in (("latents", pooled), ("prediction", future)):
        if array is not None and not np.isfinite(array).all():
            return f"{name} are not finite"
    return None


def too_old(age_ms: float, limit_ms: float) -> str | None:
    """Why data of this age may not be acted on; None if it may."""
    return (
        f"data is {age_ms:.0f} ms old, the limit is {limit_ms:.0f}" if age_ms > limit_ms else None
    )
