"""Does a precision see and foresee the same: neighbours of its latents, errors along a rollout."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jepa_edge.bench.decisions import wilson
from jepa_edge.bench.facts import Fidelity, HorizonError
from jepa_edge.bench.variants import Chain
from jepa_edge.contract import FloatArray
from jepa_edge.media.clips import Clip

HORIZONS = (1, 4, 8, 16)
RESAMPLES = 1000


def fidelity(
    chains: Sequence[Chain], reference: Chain, clips: Sequence[Clip], seed: int
) -> list[Fidelity]:
    """For every chain, how its latents and rollouts compare with those of `reference`.

    Args:
        chains: to judge.
        reference: fp32, judged by itself too.
        clips: held-out, of one window each.
        seed: of the actions and of the resampling.
    """
    exact = _seen(reference, clips)
    exact_ahead = _rolled(reference, exact, seed)
    found = []
    for chain in chains:
        ours = exact if chain is reference else _seen(chain, clips)
        ahead = exact_ahead if chain is reference else _rolled(chain, ours, seed)
        same = int((_neighbours(ours) == _neighbours(exact)).sum())
        found.append(
            Fidelity(
                label=chain.variant.label,
                clips=len(clips),
                same_neighbour=wilson(same, len(clips) if len(clips) > 1 else 0),
                horizons=[
                    _horizon_error(steps, ahead[:, steps - 1], exact_ahead[:, steps - 1], seed)
                    for steps in HORIZONS
                    if steps <= ahead.shape[1]
                ],
            )
        )
    return found


def _seen(chain: Chain, clips: Sequence[Clip]) -> FloatArray:
    """Pooled latents `[clips, W, P]`."""
    return np.concatenate([chain.encode(clip)["pooled"] for clip in clips])


def _neighbours(pooled: FloatArray) -> FloatArray:
    """Of each clip's last latent, the clip whose last latent is the most alike (cosine)."""
    last = pooled[:, -1] - pooled[:, -1].mean(0)
    last = last / np.maximum(np.linalg.norm(last, axis=1, keepdims=True), 1e-12)
    alike = last @ last.T
    np.fill_diagonal(alike, -np.inf)
    nearest: FloatArray = alike.argmax(1)
    return nearest


def _rolled(chain: Chain, pooled: FloatArray, seed: int) -> FloatArray:
    """`[clips, 16, P]`, each block of the rollout graph starting from the one before; or empty."""
    facts = chain.facts
    if "rollout" not in chain.engines or not facts.rollout_horizon:
        return np.zeros((len(pooled), 0, 0), np.float32)
    blocks = -(-max(HORIZONS) // facts.rollout_horizon)
    shape = (blocks, facts.candidates, facts.rollout_horizon, facts.action_dim)
    paths = []
    for number, steps in enumerate(pooled):
        actions = np.random.default_rng(seed + number).uniform(-1, 1, shape).astype(np.float32)
        known = steps
        for block in actions:
            history = np.ascontiguousarray(known[-facts.history :])[None]
            given = {"history": history, "actions": block}
            known = np.concatenate((known, chain.engines["rollout"].run(given)["rollout"][0]))
        paths.append(known[len(steps) :][: max(HORIZONS)])
    return np.stack(paths)


def _horizon_error(steps: int, ours: FloatArray, exact: FloatArray, seed: int) -> HorizonError:
    """Relative L2 `steps` ahead, with the interval of resampled clips (percentile bootstrap)."""
    wrong = ((ours - exact).astype(np.float64) ** 2).sum(1)
    size = (exact.astype(np.float64) ** 2).sum(1)
    picks = np.random.default_rng(seed).integers(0, len(wrong), (RESAMPLES, len(wrong)))
    again = np.sqrt(wrong[picks].sum(1) / np.maximum(size[picks].sum(1), 1e-30))
    low, high = np.percentile(again, (2.5, 97.5))
    return HorizonError(
        steps=steps,
        relative_l2=round(float(np.sqrt(wrong.sum() / max(size.sum(), 1e-30))), 6),
        low=round(float(low), 6),
        high=round(float(high), 6),
    )
