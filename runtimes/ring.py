"""The keys and values a streaming model remembers: a ring that is written once and never moved.

The step graph reads the keys and values of the `window - 1` steps before as they lie in memory,
and gives those of the new step alone; they replace the oldest ones. Keys are stored turned to
their own position (rotary), so that no slot ever needs to be touched again, and attention does not
care for the order of slots. Positions are kept as fractions of a turn in 64-bit integers, which
wrap around exactly where the angle does: a stream of years is as exact as its first second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from jepa_edge.contract import ROTARY_THETA, FloatArray, InputError, Tensors, TensorSpec

if TYPE_CHECKING:
    from jepa_edge.runtimes.engine import Engine

CACHE, NEW = "cache_", "new_"
TOKEN_AXIS = 3
"""Of caches `[1, L, heads, slots * N, head_dim]`."""


class Slots(Protocol):
    """Where one cache lies, zeros at first; `given` is what the engine gets as its input."""

    @property
    def given(self) -> Any:  # noqa: ANN401  (an array, or an engine's own handle)
        """The whole cache."""

    def put(self, begin: int, new: Any) -> None:  # noqa: ANN401
        """Writes `new`, an output of the engine, over the tokens from `begin` on."""


@runtime_checkable
class KeepsCaches(Protocol):
    """An engine in whose own memory caches lie (a GPU's)."""

    def slots(self, spec: TensorSpec) -> Slots:
        """Room for the cache that is the input `spec`."""


class HostSlots:
    """A cache in host memory, which engines on the CPU read in place."""

    def __init__(self, spec: TensorSpec) -> None:
        self.given = spec.zeros()

    def put(self, begin: int, new: npt.NDArray[Any]) -> None:
        """See `Slots.put`."""
        self.given[:, :, :, begin : begin + new.shape[TOKEN_AXIS]] = new


class KvRing:
    """The memory of one stream, empty at first, for a step graph with these ports.

    Of a graph for any number of robots it is that of one of them.

    Raises `InputError` for the ports of another kind of step graph.
    """

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        room: Callable[[TensorSpec], Slots] = HostSlots,
    ) -> None:
        given = {spec.name: spec for spec in outputs}
        if f"{NEW}k" not in given:
            raise InputError(
                "this step graph hands its whole memory in and out, as an older jepa-edge made "
                "them: export the bundle again"
            )
        self.steps = 0
        caches = {spec.name: spec for spec in inputs if spec.name.startswith(CACHE)}
        self._caches = {name: room(spec) for name, spec in caches.items()}
        width = next(spec.shape[-1] for spec in inputs if spec.name == "turn")
        self._turns_per_step = turns_per_step(width)
        self._per_step = given[f"{NEW}k"].shape[TOKEN_AXIS]
        self.slots = caches[f"{CACHE}k"].shape[TOKEN_AXIS] // self._per_step

    def feed(self) -> Tensors:
        """The graph's memory inputs for the next step; the caches are not copied."""
        filled = np.array([min(self.steps, self.slots)], np.float32)
        turn = turned(self._turns_per_step, self.steps)
        caches = {name: cache.given for name, cache in self._caches.items()}
        return {**caches, "filled": filled, "turn": turn}

    def take(self, outputs: Tensors) -> None:
        """Writes the new step's keys and values over the oldest ones."""
        begin = self.steps % self.slots * self._per_step
        for name, cache in self._caches.items():
            cache.put(begin, outputs[NEW + name.removeprefix(CACHE)])
        self.steps += 1


def ring_of(engine: Engine) -> KvRing:
    """An empty memory for a step graph, where its engine wants it."""
    room = engine.slots if isinstance(engine, KeepsCaches) else HostSlots
    return KvRing(engine.inputs, engine.outputs, room)


def turns_per_step(width: int) -> npt.NDArray[np.uint64]:
    """By what part of a turn, in 2^-64, each of `width / 2` channel pairs turns in a step."""
    rates = ROTARY_THETA ** -(np.arange(width // 2, dtype=np.float64) / (width / 2))
    return np.round(rates / (2 * np.pi) * 2.0**64).astype(np.uint64)


def turned(per_step: npt.NDArray[np.uint64], step: int) -> FloatArray:
    """Cosines and sines `[1, 2, width]` of the time axis at `step`, each channel pair alike."""
    turns = per_step * np.uint64(step % 2**64)  # wraps around at 2^64, a whole turn
    angle = turns.astype(np.float64) * (2 * np.pi / 2.0**64)
    table = np.stack((np.cos(angle), np.sin(angle)))[None].repeat(2, axis=-1)
    return np.asarray(table, np.float32)
