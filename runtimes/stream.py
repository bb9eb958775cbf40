"""The state of a stream: what the model remembers from one step to the next."""

from __future__ import annotations

from collections import deque

import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.engine import Tensors, open_engine
from jepa_edge.runtimes.sources import StepData


class Stream:
    """Steps in, latents and predictions out.

    A causal model carries its K/V cache through the ``step`` graph; a bidirectional one encodes
    the last `window` steps again at each step, and so gives latents only when it has that many.
    """

    def __init__(self, bundle: Bundle, precision: str | None, *, threads: int = 0) -> None:
        graphs = bundle.manifest.precision(precision).graphs
        self.facts = bundle.manifest.model
        self.causal = "step" in graphs
        name = "step" if self.causal else "encoder"
        self.engine = open_engine(bundle, name, precision, threads=threads)
        self.predictor = None
        if "predictor" in graphs:
            self.predictor = open_engine(bundle, "predictor", precision, threads=threads)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._dense: deque[FloatArray] = deque(maxlen=self.facts.window)
        self._clip: deque[StepData] = deque(maxlen=self.facts.window)
        self._state = {
            spec.name: np.zeros(spec.shape, np.float32)
            for spec in self.engine.inputs
            if spec.name in ("cache_k", "cache_v", "filled")
        }

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """Dense `[N, D]` and pooled `[P]` of `step`; None while a clip is not yet full."""
        if self.causal:
            seen = self.engine.run(_senses(step) | self._state)
            self._state = {name: seen[f"next_{name}"] for name in self._state}
            dense, pooled = seen["latents"][0], seen["pooled"][0, 0]
        else:
            self._clip.append(step)
            if len(self._clip) < self.facts.window:
                return None
            seen = self.engine.run(_joined(list(self._clip)))
            dense, pooled = seen["latents"][0], seen["pooled"][0, -1]
            dense = dense[-self.facts.tokens_per_step :]
            self._clip_latents = seen["latents"]
        self._dense.append(dense)
        return dense, pooled

    def peek(self, step: StepData) -> FloatArray | None:
        """The pooled latent `[P]` that `step` would give now, without remembering it."""
        kept = dict(self._state), self._dense.copy(), self._clip.copy()
        encoded = self.encode(step)
        self._state, self._dense, self._clip = kept
        return encoded[1] if encoded else None

    def predict(self) -> FloatArray | None:
        """Pooled latents `[J, P]` of the next steps; None while warming or without predictor."""
        if self.predictor is None or len(self._clip if not self.causal else self._dense) < (
            self.facts.window
        ):
            return None
        latents = np.concatenate(self._dense)[None] if self.causal else self._clip_latents
        future: FloatArray = self.predictor.run({"latents": latents})["future_pooled"][0]
        return future


def _senses(step: StepData) -> Tensors:
    given = {"video": step.video, "audio": step.audio}
    return {name: array for name, array in given.items() if array is not None}


def _joined(steps: list[StepData]) -> Tensors:
    """The steps as one clip: video on its frame axis, audio on its time axis."""
    parts = [_senses(step) for step in steps]
    axes = {"video": 2, "audio": 3}
    return {name: np.concatenate([p[name] for p in parts], axes[name]) for name in parts[0]}
