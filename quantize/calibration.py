"""Calibration data: real clips only, checked to be so."""

from __future__ import annotations

import numpy as np

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.media.clips import Clip

CLIPS = 16
"""How many to calibrate on, spread over what was given; a stream makes ten calls of each."""

STREAM_WINDOWS = 3
"""Streams are compared over this many windows: until the cache has long been full."""

FEW_CLIPS = 4
WHITE = 0.05


def check_real(clips: list[Clip]) -> list[str]:
    """Warnings about `clips`. Raises `InputError` for noise or constants.

    Neighbouring pixels of any real picture are alike; those of random data are not: a lag-1
    correlation below 0.05 is noise. Ranges measured on noise wreck an int8 model silently.
    """
    for clip in clips:
        for sense, array in (("video", clip.video), ("audio", clip.audio)):
            if array is None or sense == "audio":
                continue
            if float(array.std()) < 1e-4:
                raise InputError(f"calibration clip {clip.name}: {sense} is constant")
            left, right = array[..., :-1].ravel(), array[..., 1:].ravel()
            if abs(float(np.corrcoef(left, right)[0, 1])) < WHITE:
                raise InputError(
                    f"calibration clip {clip.name}: {sense} is random noise; int8 ranges must come "
                    "from real clips like those the robot will see"
                )
    if len(clips) < FEW_CLIPS:
        return [f"only {len(clips)} calibration clips: give at least {FEW_CLIPS}, of varied scenes"]
    return []


def refuse_random(uri: str) -> None:
    """Raises `WrongUseError` when somebody asks for random calibration data."""
    if uri.startswith("random"):
        raise WrongUseError(
            "int8 is never calibrated on random data: its ranges would be those of noise. Give "
            "--calibration a video, a folder, a recorded dataset, or builtin:calibration"
        )
