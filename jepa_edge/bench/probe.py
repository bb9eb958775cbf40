"""What latents know: ridge regression to the robot's state, with sound and with silence."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from jepa_edge.bench.episodes import Recorded
from jepa_edge.bench.facts import Probe
from jepa_edge.bench.variants import Chain
from jepa_edge.contract import FloatArray

RIDGES = tuple(10.0**k for k in range(-2, 6))
"""Penalties tried; the one with the least leave-one-out error on the training episodes is kept."""

Doubles = npt.NDArray[np.float64]


class Ridge(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted linear map from features to targets."""

    penalty: float
    weights: Doubles
    feature_mean: Doubles
    target_mean: Doubles

    def __call__(self, features: FloatArray) -> Doubles:
        """Targets `[n, targets]` foretold from `features [n, P]`."""
        return (features - self.feature_mean) @ self.weights + self.target_mean


def fitted_ridge(features: FloatArray, targets: FloatArray) -> Ridge:
    """The ridge regression whose penalty has the least leave-one-out error.

    Leave-one-out errors come from the hat matrix without refitting (Hastie et al., *The Elements
    of Statistical Learning*, 7.10.1). Targets are scaled to unit variance for the choice.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = x.mean(0), y.mean(0)
    scale = np.maximum(y.std(0), 1e-12)
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    projected = u.T @ (y - y_mean)
    errors = []
    for penalty in RIDGES:
        shrink = s**2 / (s**2 + penalty)
        residual = (y - y_mean) - u @ (shrink[:, None] * projected)
        leverage = (u**2 * shrink).sum(1) + 1 / len(x)
        errors.append(float(((residual / (1 - leverage)[:, None] / scale) ** 2).mean()))
    penalty = RIDGES[int(np.argmin(errors))]
    weights = vt.T @ ((s / (s**2 + penalty))[:, None] * projected)
    return Ridge(penalty=penalty, weights=weights, feature_mean=x_mean, target_mean=y_mean)


def r2_scores(actual: FloatArray, foretold: Doubles) -> Doubles:
    """R² of each column: 1 is exact, 0 is no better than the mean; nan for a constant column."""
    truth = actual.astype(np.float64)
    spread = ((truth - truth.mean(0)) ** 2).sum(0)
    error = ((truth - foretold) ** 2).sum(0)
    return np.where(spread > 1e-9, 1 - error / np.maximum(spread, 1e-9), np.nan)


def probe(chain: Chain, recorded: Recorded) -> Probe:
    """R² of every state variable on the test episodes, for one variant."""
    heard, penalty = _scores(chain, recorded, mute=False)
    return Probe(
        label=chain.variant.label,
        dataset=recorded.name,
        train_episodes=len(recorded.train),
        test_episodes=len(recorded.test),
        ridge=penalty,
        r2_sound=heard,
        r2_silence=_scores(chain, recorded, mute=True)[0] if chain.hears else None,
    )


def _scores(chain: Chain, recorded: Recorded, *, mute: bool) -> tuple[dict[str, float], float]:
    x_train, y_train = _examples(chain, recorded, recorded.train, mute=mute)
    x_test, y_test = _examples(chain, recorded, recorded.test, mute=mute)
    ridge = fitted_ridge(x_train, y_train)
    scores = r2_scores(y_test, ridge(x_test))
    named = zip(recorded.state_names, scores, strict=True)
    return {name: round(float(r2), 4) for name, r2 in named if np.isfinite(r2)}, ridge.penalty


def _examples(
    chain: Chain, recorded: Recorded, episodes: list[int], *, mute: bool
) -> tuple[FloatArray, FloatArray]:
    """Pooled latents `[n, P]` and states `[n, D]` of the later half of each window.

    The earlier half has little context; windows overlap by half, so no step counts twice.
    """
    half = chain.facts.window // 2
    features, states = [], []
    for index in episodes:
        for clip in recorded.windows(index, stride=chain.facts.window - half):
            assert clip.state is not None
            features.append(chain.encode(clip, mute=mute)["pooled"][0, half:])
            states.append(clip.state[half:])
    return np.concatenate(features), np.concatenate(states)
