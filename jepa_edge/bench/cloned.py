"""Behaviour cloning on the latents of the very recordings that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jepa_edge.contract import FloatArray

FEATURES = 1024
FARTHEST = 12
"""Steps ahead that a hindsight goal is taken from."""
PENALTIES = (1.0, 10.0, 100.0, 1000.0)


class Cloned:
    """Ridge regression on random ReLU features of the last latents, and of the goal if asked.

    With goals it is goal-conditioned cloning in hindsight (GCSL, arXiv:1912.06088): what was done
    on the way to where the robot came is what to do to get there. Features as in Rahimi & Recht
    (2008); the penalty is chosen on every tenth episode.
    """

    def __init__(
        self, latents: list[FloatArray], actions: list[FloatArray], *, history: int, to_goal: bool
    ) -> None:
        self.to_goal = to_goal
        random = np.random.default_rng(0)
        pairs = list(_pairs(latents, actions, history, random))
        inputs = np.stack([self._joined(h, g) for h, g, _, _ in pairs])
        wanted = np.stack([action for _, _, action, _ in pairs])
        held = np.array([episode % 10 == 9 for *_, episode in pairs])
        self.mean, self.std = inputs.mean(0), inputs.std(0) + 1e-3
        width = inputs.shape[1]
        self.weights = random.standard_normal((width, FEATURES)) / np.sqrt(width)
        self.bias = random.uniform(-1, 1, FEATURES)
        features = self._features(inputs)
        errors = []
        for penalty in PENALTIES:
            out = _ridge(features[~held], wanted[~held], penalty)
            errors.append(float(np.square(features[held] @ out - wanted[held]).mean()))
        self.out = _ridge(features, wanted, PENALTIES[int(np.argmin(errors))])

    def action(self, history: FloatArray, goal: FloatArray) -> FloatArray:
        """The action `[A]` after `history [Hh, P]`, on the way to `goal [P]`."""
        features = self._features(self._joined(history, goal)[None])
        return np.asarray(np.clip(features @ self.out, -1, 1)[0], np.float32)

    def _joined(self, history: FloatArray, goal: FloatArray) -> FloatArray:
        parts = [history.ravel(), goal] if self.to_goal else [history.ravel()]
        return np.concatenate(parts)

    def _features(self, inputs: FloatArray) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        scaled = (inputs - self.mean) / self.std
        hidden = np.maximum(scaled @ self.weights + self.bias, 0.0)
        return np.concatenate((scaled, hidden, np.ones((len(scaled), 1))), axis=1)


def _pairs(
    latents: list[FloatArray], actions: list[FloatArray], history: int, random: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray, FloatArray, int]]:
    """(history, a latent that follows, the action taken next, episode) of every step."""
    for episode, (seen, done) in enumerate(zip(latents, actions, strict=True)):
        for now in range(history - 1, len(seen) - 1):
            later = min(now + 1 + int(random.integers(FARTHEST)), len(seen) - 1)
            yield seen[now - history + 1 : now + 1], seen[later], done[now + 1], episode


def _ridge(
    features: np.ndarray[tuple[int, int], np.dtype[np.float64]], wanted: FloatArray, penalty: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    gram = features.T @ features + penalty * np.eye(features.shape[1])
    return np.asarray(np.linalg.solve(gram, features.T @ wanted))
