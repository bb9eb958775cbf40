"""Does surprise mean something: natural continuations against cuts to another episode."""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.bench.episodes import Recorded
from jepa_edge.bench.facts import Surprise
from jepa_edge.bench.variants import Chain
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray
from jepa_edge.media.clips import Clip


def auroc(positive: FloatArray, negative: FloatArray) -> float:
    """Chance that a positive scores above a negative, ties half: Mann-Whitney U over ranks.

    Args:
        positive: scores `[n]` of what should score high.
        negative: scores `[m]` of what should score low.
    """
    scores = np.concatenate((positive, negative)).astype(np.float64)
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del values
    last = np.cumsum(counts)
    ranks = (last - (counts - 1) / 2)[inverse]  # the mean rank of equals, from 1
    n, m = len(positive), len(negative)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def auroc_interval(area: float, positive: int, negative: int) -> tuple[float, float]:
    """The 95 % interval of an AUROC from its two numbers of scores (Hanley and McNeil 1982)."""
    square = area * area
    q1, q2 = area / (2 - area), 2 * square / (1 + area)
    variance = (
        area * (1 - area) + (positive - 1) * (q1 - square) + (negative - 1) * (q2 - square)
    ) / (positive * negative)
    half = 1.959964 * max(variance, 0.0) ** 0.5
    return max(0.0, area - half), min(1.0, area + half)


def relative_error(predicted: FloatArray, actual: FloatArray) -> float:
    """Surprise: the L2 distance of two latents `[P]`, as a share of the actual one's length."""
    return float(np.linalg.norm(predicted - actual)) / max(float(np.linalg.norm(actual)), 1e-12)


def surprise(chain: Chain, recorded: Recorded, *, limit: int = 60) -> Surprise | None:
    """AUROC over the test episodes: a cut replaces the step after the window by another episode's.

    Cut and natural continuation follow the same window, and both are encoded with the window
    before them, so only what comes next differs. None without a predictor.
    """
    if "predictor" not in chain.engines:
        return None
    window = chain.facts.window
    places = [
        (index, k)
        for index in recorded.test
        for k in range(len(recorded.windows(index, stride=1)) - 1)
    ]
    places = [
        places[i] for i in np.linspace(0, len(places) - 1, min(limit, len(places))).astype(int)
    ]
    scores = _Scores()
    pool = recorded.train
    for turn, (index, k) in enumerate(places):
        now, then = recorded.windows(index, stride=1)[k : k + 2]
        other = recorded.windows(pool[turn % len(pool)], stride=1)
        cut = spliced(then, other[k % len(other)], window - 1)
        scores.add(chain, now, then, cut)
    area = auroc(np.array(scores.cut), np.array(scores.natural))
    low, high = auroc_interval(area, len(scores.cut), len(scores.natural))
    return Surprise(
        label=chain.variant.label,
        dataset=recorded.name,
        cuts=len(places),
        auroc=area,
        auroc_low=low,
        auroc_high=high,
        auroc_copy_last=auroc(np.array(scores.cut_copy), np.array(scores.natural_copy)),
    )


def spliced(first: Clip, second: Clip, steps: int) -> Clip:
    """`first` for its first `steps` steps, then the same moments of `second`."""
    video = audio = None
    if first.video is not None and second.video is not None:
        at = steps * FRAMES_PER_STEP
        video = np.concatenate((first.video[:, :at], second.video[:, at:]), axis=1)
    if first.audio is not None and second.audio is not None:
        frames = first.audio.shape[-1]
        # A window is whole steps of equally many mel frames.
        window = frames if first.state is None else frames // len(first.state)
        at = steps * window
        audio = np.concatenate((first.audio[..., :at], second.audio[..., at:]), axis=-1)
    return msgspec.structs.replace(first, video=video, audio=audio)


class _Scores:
    """Surprise at cuts and at natural continuations, by the predictor and by copying."""

    def __init__(self) -> None:
        self.cut: list[float] = []
        self.natural: list[float] = []
        self.cut_copy: list[float] = []
        self.natural_copy: list[float] = []

    def add(self, chain: Chain, now: Clip, then: Clip, cut: Clip) -> None:
        encoded = chain.encode(now)
        last = encoded["pooled"][0, -1]
        predicted = chain.foresee(encoded["latents"])["future_pooled"][0, 0]
        came = chain.encode(then)["pooled"][0, -1]
        jumped = chain.encode(cut)["pooled"][0, -1]
        self.natural.append(relative_error(predicted, came))
        self.cut.append(relative_error(predicted, jumped))
        self.natural_copy.append(relative_error(last, came))
        self.cut_copy.append(relative_error(last, jumped))
