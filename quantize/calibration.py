"""Calibration data: real clips only, chosen to cover what there is, and said how well they do."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, InputError, Senses, WrongUseError
from jepa_edge.media.clips import Clip, clips_from

CLIPS = 16
"""How many to calibrate on, of all that was given; a stream makes ten calls of each."""

CALLS = 112
"""Steps to calibrate on at the least: a clip of a pilot that encodes each step alone is short."""

POOL = 4
"""Clips looked at for each that is chosen."""

STREAM_WINDOWS = 3
"""Streams are compared over this many windows: until the cache has long been full."""

FEW_CLIPS = 4
WHITE = 0.05
TRAITS = ("brightness", "contrast", "motion", "loudness", "sound change")


class TraitRange(msgspec.Struct, frozen=True, kw_only=True):
    """How far the chosen clips reach in one trait, and the share of held-out clips inside."""

    name: str
    low: float
    high: float
    inside: float


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How well the calibration clips stand for others.

    Attributes:
        clips: chosen.
        pool: looked at.
        recordings: that the chosen ones come from.
        ranges: by trait, in the units of the model's own inputs.
    """

    clips: int
    pool: int
    recordings: int
    ranges: list[TraitRange]

    @property
    def warnings(self) -> list[str]:
        """What held-out clips show that no calibration clip does."""
        return [
            f"{1 - one.inside:.0%} of the held-out clips lie outside of the {one.name} that was "
            "calibrated on: add clips like them"
            for one in self.ranges
            if one.inside < 0.5
        ]


def calibration_clips(
    uri: str, senses: Senses, *, steps: int, mirror: bool = False
) -> tuple[list[Clip], int]:
    """The clips of `uri` that differ the most, and how many there were to choose from.

    `CLIPS` of them, or as many short ones as make `CALLS` steps. Some of every recording first, of
    few recordings; then always the one whose traits are farthest from those chosen
    (k-centre, Gonzalez 1985): dark and bright, still and moving, silent and loud scenes all count,
    however rare they are.

    Raises `InputError` as `clips_from`.
    """
    count = max(CLIPS, CALLS // steps)
    pool = clips_from(uri, senses, steps=steps, limit=count * POOL, mirror=mirror)
    traits = _traits(pool)
    spread = traits.std(0)
    traits = (traits / np.where(spread > 0, spread, 1.0)).astype(np.float32)
    recordings: dict[str, int] = {}
    for index, clip in enumerate(pool):
        recordings.setdefault(_recording(clip), index)
    chosen = list(recordings.values())
    chosen = chosen if len(chosen) <= count else chosen[:1]
    while len(chosen) < min(count, len(pool)):
        away = np.linalg.norm(traits[:, None] - traits[chosen][None], axis=2).min(1)
        away[chosen] = -1.0
        chosen.append(int(away.argmax()))
    return [pool[index] for index in sorted(chosen)], len(pool)


def coverage(chosen: Sequence[Clip], heldout: Sequence[Clip], pool: int) -> Coverage:
    """How far the traits of `chosen` reach, and how many of `heldout` lie within."""
    known, others = _traits(chosen), _traits(heldout)
    low, high = known.min(0), known.max(0)
    slack = 0.05 * (high - low)
    inside = ((others >= low - slack) & (others <= high + slack)).mean(0)
    return Coverage(
        clips=len(chosen),
        pool=pool,
        recordings=len({_recording(clip) for clip in chosen}),
        ranges=[
            TraitRange(name=name, low=float(a), high=float(b), inside=round(float(share), 4))
            for name, a, b, share in zip(TRAITS, low, high, inside, strict=True)
            if b > a
        ],
    )


def _traits(clips: Sequence[Clip]) -> FloatArray:
    """`[clips, 5]`: see `TRAITS`; 0 for a sense that is not there."""
    rows = []
    for clip in clips:
        row = [0.0] * len(TRAITS)
        if clip.video is not None:
            motion = np.abs(np.diff(clip.video, axis=1)).mean() if clip.video.shape[1] > 1 else 0.0
            row[:3] = [float(clip.video.mean()), float(clip.video.std()), float(motion)]
        if clip.audio is not None:
            row[3:] = [float(clip.audio.mean()), float(clip.audio.std())]
        rows.append(row)
    return np.array(rows, np.float32)


def _recording(clip: Clip) -> str:
    return clip.name.partition("#")[0]


def check_real(clips: list[Clip]) -> list[str]:
    """Warnings about `clips`. Raises `InputError` for noise or constants.

    Neighbouring pixels of any real picture are alike; those of random data are not: a lag-1
    correlation below 0.05 is noise. Ranges measured on noise wreck an int8 model silently.
    """
    for clip in clips:
        if clip.video is None:
            continue
        if float(clip.video.std()) < 1e-4:
            raise InputError(f"calibration clip {clip.name}: video is constant")
        left, right = clip.video[..., :-1].ravel(), clip.video[..., 1:].ravel()
        if abs(float(np.corrcoef(left, right)[0, 1])) < WHITE:
            raise InputError(
                f"calibration clip {clip.name}: video is random noise; int8 ranges must come "
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
