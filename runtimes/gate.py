"""The change gate: a step in which nothing moved is not encoded again.

It is compared with the last step that *was* encoded, never with the one before: a scene that
creeps is encoded again as soon as it has crept far enough. What is left out costs nothing and
adds nothing to what the model remembers, as if no time had passed.
"""

from __future__ import annotations

import numpy as np

from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.loop import Streaming
from jepa_edge.runtimes.sources import StepData

LONGEST = 10
"""Steps that may be left out one after another: however still it is, one in eleven is encoded."""
TILES = 8
"""The picture is judged in 8 x 8 tiles, each by its mean change: the tile that changed most counts,
so that something small is not lost in a large picture at rest."""


class GatedStream:
    """A stream in front of which a gate stands; `encoded` and `skipped` are its account.

    Args:
        stream: what encodes.
        threshold: the change, in standard deviations of the normalised input, that is motion.
        longest: see `LONGEST`.
    """

    def __init__(self, stream: Streaming, threshold: float, longest: int = LONGEST) -> None:
        self.stream, self.threshold, self.longest = stream, threshold, longest
        self.encoded = self.skipped = 0
        self._in_a_row = 0
        self._answer: tuple[FloatArray, FloatArray] | None = None
        self._future: FloatArray | None = None
        self._shown: FloatArray | None = None
        self._heard: FloatArray | None = None

    @property
    def path(self) -> str:
        """See `Streaming.path`."""
        return self.stream.path

    @property
    def is_warm(self) -> bool:
        """See `Streaming.is_warm`."""
        return self.stream.is_warm

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """The last answer again if nothing moved since it; a cold stream is always fed."""
        if self._is_still(step):
            self._in_a_row += 1
            self.skipped += 1
            return self._answer
        self._shown, self._heard, self._in_a_row = step.video, step.audio, 0
        self._future = None
        self._answer = None  # of an encode that fails nothing is left
        self._answer = self.stream.encode(step)
        self.encoded += 1
        return self._answer

    def predict(self) -> FloatArray | None:
        """The future that the last encoded step has; it is computed once."""
        if self._future is None:
            self._future = self.stream.predict()
        return self._future

    def reset(self) -> None:
        """Forgets everything but the account."""
        self.stream.reset()
        self._answer = self._future = self._shown = self._heard = None
        self._in_a_row = 0

    def _is_still(self, step: StepData) -> bool:
        if self._answer is None or not self.is_warm or self._in_a_row >= self.longest:
            return False
        moved = max(
            0.0 if step.video is None else changed_picture(step.video, self._shown),
            0.0 if step.audio is None else changed_sound(step.audio, self._heard),
        )
        return moved < self.threshold


def changed_picture(now: FloatArray, before: FloatArray | None) -> float:
    """The mean absolute change of the tile that changed most, of `video [1, 3, 2, H, W]`."""
    if before is None or before.shape != now.shape:
        return float("inf")
    change = np.abs(now - before).mean(axis=(0, 1, 2))
    rows, columns = (max(1, -(-size // TILES)) for size in change.shape)
    more = (0, -change.shape[0] % rows), (0, -change.shape[1] % columns)
    padded = np.pad(change, more, mode="edge")
    tiles = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)
    return float(tiles.mean(axis=(1, 3)).max())


def changed_sound(now: FloatArray, before: FloatArray | None) -> float:
    """The change of the mel bin that changed most, in the mean over the step `[1, 1, M, t]`.

    Noise differs from moment to moment, its spectrum does not: the means over time are compared.
    """
    if before is None or before.shape != now.shape:
        return float("inf")
    return float(np.abs(now.mean(axis=-1) - before.mean(axis=-1)).max())
