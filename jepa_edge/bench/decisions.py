"""Does a precision decide the same: which candidate action a planner would take, against fp32."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from jepa_edge.bench.facts import Decisions, Interval
from jepa_edge.bench.variants import Chain
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray
from jepa_edge.media.clips import Clip

Z_95 = 1.959964
CHOICES = 120
"""Decisions at the most: enough for an interval of a few points."""


def decisions(
    chains: Sequence[Chain], reference: Chain, clips: Sequence[Clip], seed: int
) -> list[Decisions]:
    """For every chain, how it chooses among the same candidates as `reference`.

    Each decision: the latents at the end of one window, a goal (the latents `rollout_horizon`
    steps later), seeded candidate action sequences, and the energy of each: the distance of where
    it leads from the goal. Every chain encodes, rolls out and measures with its own latents.

    Args:
        chains: to judge, all with a ``rollout`` graph.
        reference: fp32, judged by itself too (all ones).
        clips: of ``window + rollout_horizon`` steps.
        seed: of the candidates.
    """
    exact = [_energies(reference, clip, seed + i) for i, clip in enumerate(clips)]
    found = []
    for chain in chains:
        ours = exact
        if chain is not reference:
            ours = [_energies(chain, clip, seed + i) for i, clip in enumerate(clips)]
        pairs = list(zip(ours, exact, strict=True))
        same = sum(int(np.argmin(a) == np.argmin(b)) for a, b in pairs)
        ranks = np.array([spearman(a, b) for a, b in pairs])
        regret = np.array([_regret(a, b) for a, b in pairs])
        found.append(
            Decisions(
                label=chain.variant.label,
                count=len(pairs),
                same_action=wilson(same, len(pairs)),
                spearman_mean=round(float(ranks.mean()), 5),
                spearman_p5=round(float(np.percentile(ranks, 5)), 5),
                regret_mean=round(float(regret.mean()), 5),
            )
        )
    return found


def wilson(successes: int, trials: int) -> Interval:
    """A share with its 95 % Wilson score interval (Wilson 1927); 0 trials tell nothing: [0, 1]."""
    if not trials:
        return Interval(share=0.0, low=0.0, high=1.0)
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * (share * (1 - share) / trials + z2 / (4 * trials**2)) ** 0.5
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(share=round(share, 5), low=round(low, 5), high=round(high, 5))


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation of `a [n]` and `b [n]` without ties; 1 for the same order."""
    ours, theirs = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(ours, theirs)[0, 1])


def _energies(chain: Chain, clip: Clip, seed: int) -> FloatArray:
    """`[K]`: how far from the goal each candidate leads."""
    facts, ahead = chain.facts, chain.facts.rollout_horizon
    now = chain.encode(_part(clip, chain, 0, facts.window))["pooled"]
    goal = chain.encode(_part(clip, chain, ahead, ahead + facts.window))["pooled"][0, -1]
    shape = (facts.candidates, ahead, facts.action_dim)
    actions = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    history = np.ascontiguousarray(now[:, -facts.history :])
    rolled = chain.engines["rollout"].run({"history": history, "actions": actions})["rollout"]
    energies: FloatArray = np.linalg.norm(rolled[:, -1] - goal, axis=1).astype(np.float32)
    return energies


def _regret(ours: FloatArray, exact: FloatArray) -> float:
    """What our choice costs by the exact energies, as a share of their whole range."""
    spread = float(exact.max() - exact.min())
    lost = float(exact[int(np.argmin(ours))] - exact.min())
    return lost / spread if spread > 0 else 0.0


def _part(clip: Clip, chain: Chain, first: int, last: int) -> Clip:
    """Steps `first` to `last` of a clip."""
    video, audio, mels = clip.video, clip.audio, chain.senses.mel_frames_per_step
    if video is not None:
        video = np.ascontiguousarray(video[:, first * FRAMES_PER_STEP : last * FRAMES_PER_STEP])
    if audio is not None:
        audio = np.ascontiguousarray(audio[..., first * mels : last * mels])
    return msgspec.structs.replace(clip, video=video, audio=audio, actions=None, state=None)
