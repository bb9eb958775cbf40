"""What latents know: ridge regression to the robot's state, with sound and with silence."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from jepa_edge.bench.episodes import Recorded
from jepa_edge.bench.facts import Probe
from jepa_edge.bench.variants import Chain
from jepa_edge.contract import FloatArray

RIDGES = tuple(10.0 ** (k / 2) for k in range(-4, 15))
"""Penalties tried; per target the one that foretells left-out training episodes best is kept."""
FOLDS = 6

DENSE_FEATURES = 2048
"""Of a step's tokens, all numbers or every k-th: as many as a probe can carry."""

STILL = 0.01
"""A variable that varies less in the test than this share of its variance in training is left out:
a cube that nobody knocked over says nothing of whether its height is known."""

Doubles = npt.NDArray[np.float64]


class Ridge(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted linear map from features to targets, with a penalty for each target."""

    penalties: Doubles
    weights: Doubles
    feature_mean: Doubles
    target_mean: Doubles

    def __call__(self, features: FloatArray) -> Doubles:
        """Targets `[n, targets]` foretold from `features [n, P]`."""
        return (features - self.feature_mean) @ self.weights + self.target_mean


def fitted_ridge(features: FloatArray, targets: FloatArray, groups: npt.NDArray[np.int64]) -> Ridge:
    """Ridge regressions whose penalties foretell left-out groups of examples best.

    Args:
        features: `[n, P]`.
        targets: `[n, D]`.
        groups: `[n]`, the episode of each example: neighbours in time are alike, so leaving out
            single examples would choose no penalty at all.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    errors = np.zeros((len(RIDGES), y.shape[1]))
    for fold in range(FOLDS):
        left_out = groups % FOLDS == fold
        if left_out.all() or not left_out.any():
            continue
        known = _Decomposed(x[~left_out], y[~left_out])
        for index, penalty in enumerate(RIDGES):
            wrong = y[left_out] - known.ridge(np.full(y.shape[1], penalty))(x[left_out])
            errors[index] += (wrong**2).sum(0)
    return _Decomposed(x, y).ridge(np.array(RIDGES)[errors.argmin(0)])


class _Decomposed:
    """Centred examples as singular values and right vectors: any penalty's solution is then cheap.

    By way of the smaller of the two Gram matrices, many times faster than a whole SVD.
    """

    def __init__(self, x: Doubles, y: Doubles) -> None:
        self.x_mean, self.y_mean = x.mean(0), y.mean(0)
        x = x - self.x_mean
        wide = x.shape[1] > x.shape[0]
        squares, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
        kept = squares > 1e-12 * squares[-1]
        self.squares, vectors = squares[kept], vectors[:, kept]
        self.v = x.T @ vectors / np.sqrt(self.squares) if wide else vectors
        self.projected = self.v.T @ (x.T @ (y - self.y_mean))

    def ridge(self, penalties: Doubles) -> Ridge:
        return Ridge(
            penalties=penalties,
            weights=self.v @ (self.projected / (self.squares[:, None] + penalties)),
            feature_mean=self.x_mean,
            target_mean=self.y_mean,
        )


def r2_scores(actual: FloatArray, foretold: Doubles) -> Doubles:
    """R² of each column: 1 is exact, 0 is no better than the mean; nan for a constant column."""
    truth = actual.astype(np.float64)
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    error = ((truth - foretold) ** 2).sum(0)
    return np.where(spread > 1e-9, 1 - error / np.maximum(spread, 1e-9), np.nan)


def stood_still(train: FloatArray, test: FloatArray) -> npt.NDArray[np.bool_]:
    """Which columns of `train [n, D]` and `test [m, D]` vary too little in the test for a score."""
    still: npt.NDArray[np.bool_] = test.var(0) < STILL * train.var(0)
    return still


class _Examples(msgspec.Struct, frozen=True, kw_only=True):
    """Pooled `[n, P]` and dense `[n, F]` latents, states `[n, D]`, and episodes' places `[n]`."""

    pooled: FloatArray
    dense: FloatArray
    states: FloatArray
    groups: npt.NDArray[np.int64]


def probe(chain: Chain, recorded: Recorded) -> Probe:
    """R² of every state variable on the test episodes, for one variant."""
    parts = recorded.train, recorded.test
    heard = [_examples(chain, recorded, part, mute=False) for part in parts]
    silence = None
    if chain.hears:
        deaf = [_examples(chain, recorded, part, mute=True) for part in parts]
        silence = _scores(recorded.state_names, *deaf, dense=True)
    return Probe(
        label=chain.variant.label,
        dataset=recorded.name,
        train_episodes=len(recorded.train),
        test_episodes=len(recorded.test),
        r2_pooled=_scores(recorded.state_names, *heard, dense=False),
        r2_dense=_scores(recorded.state_names, *heard, dense=True),
        r2_dense_silence=silence,
    )


def _scores(
    names: Sequence[str], train: _Examples, test: _Examples, *, dense: bool
) -> dict[str, float]:
    known, unseen = (train.dense, test.dense) if dense else (train.pooled, test.pooled)
    scores = r2_scores(test.states, fitted_ridge(known, train.states, train.groups)(unseen))
    scores[stood_still(train.states, test.states)] = np.nan
    named = zip(names, scores, strict=True)
    return {name: round(float(r2), 4) for name, r2 in named if np.isfinite(r2)}


def _examples(chain: Chain, recorded: Recorded, episodes: list[int], *, mute: bool) -> _Examples:
    """Of the later half of each window: the earlier half has little context.

    Windows overlap by half, so no step counts twice.
    """
    window = chain.facts.window
    half = window // 2
    pooled, dense, states, groups = [], [], [], []
    for place, index in enumerate(episodes):
        for clip in recorded.windows(index, stride=window - half):
            assert clip.state is not None
            encoded = chain.encode(clip, mute=mute)
            tokens = encoded["latents"].reshape(window, -1)[half:]
            dense.append(tokens[:, :: -(-tokens.shape[1] // DENSE_FEATURES)])
            pooled.append(encoded["pooled"][0, half:])
            states.append(clip.state[half:])
            groups += [place] * (window - half)
    return _Examples(
        pooled=np.concatenate(pooled),
        dense=np.concatenate(dense),
        states=np.concatenate(states),
        groups=np.array(groups),
    )
