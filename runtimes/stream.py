"""The state of a stream: what the model remembers from one step to the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, Tensors, WrongUseError
from jepa_edge.runtimes.engine import Engine, open_engine
from jepa_edge.runtimes.ring import KvRing, ring_of
from jepa_edge.runtimes.sources import StepData


class Stream:
    """Steps in, latents and predictions out.

    A causal model remembers keys and values (`KvRing`) between calls of its ``step`` graph. A
    bidirectional one encodes the last `window` steps again at each step, and so gives latents only
    when it has that many.
    """

    path = "edge"

    def __init__(
        self,
        bundle: Bundle,
        precision: str | None,
        *,
        threads: int = 0,
        engines: Mapping[str, Engine] | None = None,
        clips: bool = False,
    ) -> None:
        """Opens the engines, or takes those of `engines` (by graph) that many streams share.

        With `clips` a causal model too encodes its last window anew at each step.
        """
        graphs = bundle.manifest.precision(precision).graphs
        if not {"step", "encoder"} & set(graphs):
            raise WrongUseError(
                f"bundle {bundle.manifest.name} has neither a step nor an encoder graph to run; "
                f"it has: {', '.join(graphs) or 'none'}"
            )
        self.facts = bundle.manifest.model
        self.causal = "step" in graphs and not (clips and "encoder" in graphs)
        name = "step" if self.causal else "encoder"
        ready = engines or {}
        self.engine = ready.get(name) or open_engine(bundle, name, precision, threads=threads)
        self.predictor = None
        if "predictor" in graphs:
            self.predictor = ready.get("predictor") or open_engine(
                bundle, "predictor", precision, threads=threads
            )
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self._seen = 0
        self._steps: deque[StepData] = deque(maxlen=self.facts.window)
        self._latents: deque[FloatArray] = deque(maxlen=self.facts.window)
        self._ring = ring_of(self.engine) if self.causal else None

    @property
    def is_warm(self) -> bool:
        """Whether a whole window has been seen since the last reset."""
        return self._seen >= self.facts.window

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """Dense `[N, D]` and pooled `[P]` of `step`; None while a clip is not yet full."""
        if self._ring:
            self._seen += 1
            return self._encode_step(step, self._ring)
        self.see(step)
        return self._encode_window() if self.is_warm else None

    def see(self, step: StepData) -> None:
        """Remembers `step` without encoding it; of a causal model no step can be left out."""
        assert not self.causal
        self._seen += 1
        self._steps.append(step)

    def predict(self) -> FloatArray | None:
        """Pooled latents `[J, P]` of the next steps; None while warming or without predictor."""
        if self.predictor is None or not self.is_warm:
            return None
        latents = np.concatenate(list(self._latents))[None]
        future: FloatArray = self.predictor.run({"latents": latents})["future_pooled"][0]
        return future

    def _encode_step(self, step: StepData, ring: KvRing) -> tuple[FloatArray, FloatArray]:
        out = self.engine.run(_senses(step) | ring.feed())
        ring.take(out)
        self._latents.append(out["latents"][0])
        return out["latents"][0], out["pooled"][0, 0]

    def _encode_window(self) -> tuple[FloatArray, FloatArray]:
        out = self.engine.run(_joined(list(self._steps)))
        latents = out["latents"][0]
        self._latents = deque([latents], maxlen=1)  # all of the window: each step saw each other
        return latents[-self.facts.tokens_per_step :], out["pooled"][0, -1]


def _senses(step: StepData) -> Tensors:
    given = {"video": step.video, "audio": step.audio}
    return {name: array for name, array in given.items() if array is not None}


def _joined(steps: list[StepData]) -> Tensors:
    """The steps as one clip: video on its frame axis, audio on its time axis."""
    parts = [_senses(step) for step in steps]
    axes = {"video": 2, "audio": 3}
    return {name: np.concatenate([p[name] for p in parts], axes[name]) for name in parts[0]}
