"""What the latents are worth: can the robot's state be read from them, and is a cut surprising?"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, InputError, Senses
from jepa_edge.media.dataset import Episode, open_dataset
from jepa_edge.media.decode import Recording
from jepa_edge.runtimes.loop import distance
from jepa_edge.runtimes.sources import FileSource, StepData
from jepa_edge.runtimes.stream import Stream

RIDGE = 1.0
CUT_EVERY = 3


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """One dataset, one precision: R² per state variable on held-out episodes, and the AUROC."""

    r2: dict[str, float]
    r2_mean: float
    surprise_auroc: float
    episodes: int


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset's episodes as steps, with their states."""

    name: str
    state_names: list[str]
    steps: list[list[StepData]]
    states: list[FloatArray]


def read_recorded(folder: Path, senses: Senses, *, silent: bool = False) -> Recorded:
    """Every episode at `folder`; `silent` takes the sound away. Needs at least 4 episodes."""
    dataset = open_dataset(folder)
    if dataset.episodes < 4:
        raise InputError(f"{folder} has {dataset.episodes} episodes; a probe needs at least 4")
    episodes = [dataset.read(index, senses) for index in range(dataset.episodes)]
    return Recorded(
        name=folder.name,
        state_names=dataset.state_names,
        steps=[_steps(episode, senses, silent=silent) for episode in episodes],
        states=[episode.state for episode in episodes],
    )


def probe(bundle: Bundle, precision: str, recorded: Recorded, threads: int) -> Probe:
    """Ridge regression on three of four episodes, judged on the fourth; cuts to other episodes."""
    stream = Stream(bundle, precision, threads=threads)
    pooled, natural, cut = [], [], []
    for index, steps in enumerate(recorded.steps):
        other = recorded.steps[(index + 1) % len(recorded.steps)]
        seen, calm, shocked = _play(stream, steps, other)
        pooled.append(seen)
        natural += calm
        cut += shocked
    r2 = r2_by_variable(pooled, recorded.states, recorded.state_names)
    return Probe(
        r2=r2,
        r2_mean=round(float(np.mean(list(r2.values()))), 4),
        surprise_auroc=round(auroc(natural, cut), 4),
        episodes=len(pooled),
    )


def r2_by_variable(
    pooled: list[FloatArray], states: list[FloatArray], names: list[str]
) -> dict[str, float]:
    """R² of a linear read-out per variable, on every fourth episode; constants are left out.

    `pooled` holds `[S, P]` and `states` `[S, V]` per episode.
    """
    held = [i % 4 == 3 for i in range(len(pooled))]
    x = np.concatenate([p for p, h in zip(pooled, held, strict=True) if not h]).astype(np.float64)
    y = np.concatenate([s for s, h in zip(states, held, strict=True) if not h]).astype(np.float64)
    x_held = np.concatenate([p for p, h in zip(pooled, held, strict=True) if h])
    y_held = np.concatenate([s for s, h in zip(states, held, strict=True) if h])
    centre, spread = x.mean(0), x.std(0) + 1e-8
    z = (x - centre) / spread
    weights = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    guess = (x_held - centre) / spread @ weights + y.mean(0)
    total = ((y_held - y_held.mean(0)) ** 2).sum(0)
    error = ((y_held - guess) ** 2).sum(0)
    return {
        name: round(float(1 - error[i] / total[i]), 4)
        for i, name in enumerate(names)
        if total[i] > 1e-8
    }


def auroc(negatives: list[float], positives: list[float]) -> float:
    """Chance that a positive scores above a negative, ties half (Mann-Whitney)."""
    scores = np.array(negatives + positives)
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = len(negatives), len(positives)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def _play(
    stream: Stream, steps: list[StepData], other: list[StepData]
) -> tuple[FloatArray, list[float], list[float]]:
    """Pooled latents, surprise at what came, and at a cut to `other` in its place."""
    stream.reset()
    pooled, natural, cut = [], [], []
    expected: FloatArray | None = None
    for index, step in enumerate(steps):
        if expected is not None and index % CUT_EVERY == 0:
            shock = stream.peek(other[index % len(other)])
            if shock is not None:
                cut.append(distance(expected, shock))
        encoded = stream.encode(step)
        if encoded is None:
            continue
        if expected is not None:
            natural.append(distance(expected, encoded[1]))
        pooled.append(encoded[1])
        future = stream.predict()
        expected = None if future is None else future[0]
    return np.stack(pooled), natural, cut


def _steps(episode: Episode, senses: Senses, *, silent: bool) -> list[StepData]:
    samples = None if silent else episode.samples
    recording = Recording(name=str(episode.index), frames=episode.frames, samples=samples)
    return list(FileSource(recording, samples, senses, fast=True).steps())
