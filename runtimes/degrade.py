"""Graceful degradation: a board that cannot keep up, or is too hot, runs a cheaper precision.

The cheaper stream is opened and fed what was seen of late in a thread of its own; it takes over
warm, between two steps, so that no step is lost and nothing has to be seen anew. When the board has
had time to spare for a while, the better precision comes back the same way; one that proves too
much again is waited for twice as long.

A model that encodes its last window anew at each step, and does not plan, can also do so at every
second step, or every fourth: it still sees them all. A causal model's memory may have no holes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from jepa_edge.bundle import Manifest
from jepa_edge.contract import PRECISIONS, FloatArray, JepaEdgeError
from jepa_edge.front import stderr
from jepa_edge.runtimes.board import Board, BoardState
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

SLOWER = (2, 4)
"""Of how many steps one is encoded, at lower rates."""


class DegradeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When to go down and up.

    Attributes:
        busy: the share of the time from step to encoded step that encoding and predicting may take.
        spare: less than this share leaves time for a better precision.
        misses: so many steps over `busy` among the last `of` are too many.
        of: see `misses`.
        calm_steps: so many steps in a row must leave `spare`; doubled, up to `most_calm_steps`,
            each time that the better precision was too much.
        most_calm_steps: see `calm_steps`.
        hot_c: the hottest that the board may be; throttling counts as being too hot.
    """

    busy: float = 0.8
    spare: float = 0.3
    misses: int = 5
    of: int = 10
    calm_steps: int = 150
    most_calm_steps: int = 9600
    hot_c: float = 90.0


class Ladder:
    """Decides which rung to stand on: 0 is the best, each next one cheaper.

    Args:
        times_ms: from step to encoded step, on each rung.
        limits: when.
    """

    def __init__(self, times_ms: Sequence[float], limits: DegradeLimits | None = None) -> None:
        self.times_ms, self.limits = times_ms, limits or DegradeLimits()
        self.rung = 0
        self._late: deque[bool] = deque(maxlen=self.limits.of)
        self._calm = 0
        self._wait = self.limits.calm_steps
        self._rose = False

    def note(self, took_ms: float, board: BoardState) -> int:
        """The rung that is wanted after a step that took so long."""
        limits = self.limits
        hot = bool(board.throttled) or (board.temperature_c or 0.0) > limits.hot_c
        has_ms = self.times_ms[self.rung]
        self._late.append(hot or took_ms > limits.busy * has_ms)
        calm = not hot and took_ms < limits.spare * has_ms
        self._calm = self._calm + 1 if calm else 0
        if self._late.count(True) >= limits.misses and self.rung + 1 < len(self.times_ms):
            if self._rose:
                self._wait = min(2 * self._wait, limits.most_calm_steps)
            self._stand_on(self.rung + 1, rose=False)
        elif self._calm >= self._wait and self.rung > 0:
            self._stand_on(self.rung - 1, rose=True)
        return self.rung

    def _stand_on(self, rung: int, *, rose: bool) -> None:
        self.rung, self._rose, self._calm = rung, rose, 0
        self._late.clear()


class Rung(NamedTuple):
    """A precision, and how many steps there are to one that is encoded."""

    precision: str
    every: int = 1


def rungs_of(manifest: Manifest, precision: str | None, *, slowest: int) -> list[Rung]:
    """What a run may go down through: what it flies in, then what is less exact, then slower.

    Only precisions that have every graph of the first one, and at least one step in `slowest`.
    """
    first = precision or manifest.default_precision
    graphs = set(manifest.precision(first).graphs)
    cheaper = [
        name
        for name in PRECISIONS[PRECISIONS.index(first) + 1 :]
        if name in manifest.precisions and graphs <= set(manifest.precisions[name].graphs)
    ]
    names = [first, *cheaper]
    return [Rung(name) for name in names] + [Rung(names[-1], n) for n in SLOWER if n <= slowest]


class DegradingStream:
    """A stream that changes its precision and rate by `Ladder`; `changes` counts how often.

    Args:
        rungs: the best first.
        stream: of the first one.
        open_stream: opens the stream of another precision.
        ladder: decides.
        board: tells how hot it is.
        window: how many steps a stream must see to be warm.
    """

    path = "edge"

    def __init__(
        self,
        rungs: Sequence[Rung],
        stream: Stream,
        open_stream: Callable[[str], Stream],
        ladder: Ladder,
        *,
        board: Board,
        window: int,
    ) -> None:
        self.rungs, self.stream, self._open = rungs, stream, open_stream
        self.ladder, self.board = ladder, board
        self.precision, self.every = rungs[0]
        self.changes = self.left_out = 0
        self._broken: set[str] = set()
        self._recent: deque[StepData] = deque(maxlen=window)
        self._coming: _Coming | None = None
        self._encode_ms = 0.0

    @property
    def is_warm(self) -> bool:
        """See `Streaming.is_warm`."""
        return self.stream.is_warm

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """See `Streaming.encode`."""
        self._take_over()
        self._recent.append(step)
        began_ns = time.monotonic_ns()
        encoded = self.stream.encode(step)
        self._encode_ms = (time.monotonic_ns() - began_ns) / 1e6
        return encoded

    def leaves_out(self, step: StepData) -> bool:
        """See `Rate.leaves_out`."""
        if step.index % self.every == 0 or not self.is_warm:
            return False
        self._take_over()
        self._recent.append(step)
        self.stream.see(step)
        self.left_out += 1
        return True

    def predict(self) -> FloatArray | None:
        """See `Streaming.predict`; then it is decided what the next steps run in."""
        began_ns = time.monotonic_ns()
        future = self.stream.predict()
        took_ms = self._encode_ms + (time.monotonic_ns() - began_ns) / 1e6
        wanted = self.rungs[self.ladder.note(took_ms, self.board.state())]
        other = wanted.precision != self.precision and wanted.precision not in self._broken
        if other and self._coming is None:
            self._coming = _Coming(wanted.precision, self._open, list(self._recent))
            self._coming.start()
        if wanted.every != self.every:
            stderr.print(f"one step of {wanted.every} is encoded now: time or heat")
            self.every = wanted.every
            self.changes += 1
        return future

    def reset(self) -> None:
        """See `Streaming.reset`; who is on its way has seen what is to be forgotten."""
        self.stream.reset()
        self._recent.clear()
        self._coming = None

    def _take_over(self) -> None:
        coming = self._coming
        if coming is None or coming.is_alive():
            return
        self._coming = None
        if coming.stream is None:
            self._broken.add(coming.precision)
            stderr.print(f"precision {coming.precision} cannot be run ({coming.trouble})")
            return
        last = coming.seen[-1].index if coming.seen else -1
        _show(coming.stream, [step for step in self._recent if step.index > last])
        stderr.print(f"precision {coming.precision} instead of {self.precision}: time or heat")
        self.stream, self.precision = coming.stream, coming.precision
        self.changes += 1


def _show(stream: Stream, steps: Sequence[StepData]) -> None:
    """Makes `stream` know `steps`; only a causal one must encode them for that."""
    for step in steps:
        if stream.causal:
            stream.encode(step)
        else:
            stream.see(step)


class _Coming(threading.Thread):
    """Opens a stream and shows it what was seen of late."""

    def __init__(
        self, precision: str, open_stream: Callable[[str], Stream], seen: list[StepData]
    ) -> None:
        super().__init__(name=f"open {precision}", daemon=True)
        self.precision, self._open, self.seen = precision, open_stream, seen
        self.stream: Stream | None = None
        self.trouble = ""

    def run(self) -> None:
        """See the class."""
        try:
            stream = self._open(self.precision)
            _show(stream, self.seen)
            self.stream = stream
        except JepaEdgeError as error:
            self.trouble = str(error)
