"""What each graph gets and gives on real clips: for calibration and parity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import numpy as np

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import (
    FRAMES_PER_STEP,
    Feed,
    FloatArray,
    InputError,
    Senses,
    Tensors,
    TensorSpec,
)
from jepa_edge.media.clips import Clip
from jepa_edge.runtimes.ring import NEW, KvRing

SAMPLES_BYTES = 1 << 30
"""How much memory the samples of one graph may take."""

Call = Callable[[str, Tensors], Tensors]
"""Runs a graph by name: the reference that others are compared with."""


class Feeder(msgspec.Struct, frozen=True, kw_only=True):
    """Runs `call` over clips, its graphs chained as at run time.

    The predictor gets the encoder's latents, the step graph a running cache, the rollout the
    clip's pooled latents with the actions taken (seeded uniform ones for clips without).

    Attributes:
        inputs: of every graph, by name.
        outputs: the same.
        facts: of the model.
        senses: the geometry the clips were cut to.
        call: the reference: the source model, or the graphs of a bundle.
    """

    inputs: Mapping[str, Sequence[TensorSpec]]
    outputs: Mapping[str, Sequence[TensorSpec]]
    facts: ModelFacts
    senses: Senses
    call: Call

    def feeds(self, graph: str, clips: Sequence[Clip]) -> list[Feed]:
        """Every call of `graph` that `clips` lead to.

        Raises `InputError` when a clip is shorter than the model's window.
        """
        found: list[Feed] = []
        for number, clip in enumerate(clips):
            if graph == "step":
                found += self._stream(clip)
            elif graph == "rollout_step":
                found += self._steps_ahead(clip, number)
            else:
                given = self._given(graph, clip, number)
                found.append(Feed(clip=clip.name, inputs=given, outputs=self.call(graph, given)))
        return found

    def _given(self, graph: str, clip: Clip, number: int) -> Tensors:
        seen = self._cut(clip, 0, self.facts.window)
        if graph == "encoder":
            return seen
        if graph == "image_encoder":
            return {"image": np.ascontiguousarray(seen["video"][:, :, -1:])}
        encoded = self.call("encoder", seen)
        if graph in ("predictor", "classifier"):
            return {"latents": encoded["latents"]}
        if graph == "masked_predictor":
            return self._masked(encoded, number)
        pooled = encoded["pooled"]
        if self.facts.window < self.facts.history:  # steps that are encoded alone
            steps = range(min(self.facts.history, self._steps(clip)))
            pooled = np.concatenate(
                [self.call("encoder", self._cut(clip, step, 1))["pooled"] for step in steps], axis=1
            )
        history = np.ascontiguousarray(pooled[:, -self.facts.history :])
        return {"history": history, "actions": self._actions(clip, number)}

    def _masked(self, encoded: Tensors, number: int) -> Tensors:
        """A random part of the clip's tokens, and the positions of the rest.

        Counts differ from clip to clip: the graph must take any.
        """
        latents = encoded.get("levels", encoded["latents"])
        tokens = np.arange(latents.shape[1])
        random = np.random.default_rng(number)
        hidden = random.random(len(tokens)) < random.uniform(0.2, 0.8)
        hidden[random.integers(len(tokens))] = True
        seen = tokens[~hidden] if not hidden.all() else tokens[:1]
        return {
            "context": np.ascontiguousarray(latents[:, seen]),
            "context_positions": seen[None].astype(np.int64),
            "target_positions": tokens[hidden][None].astype(np.int64),
        }

    def _steps_ahead(self, clip: Clip, number: int) -> list[Feed]:
        """A rollout of seeded uniform actions for two candidates, fed back until the cache is full.

        Robots' states and actions are of a few units at the most, as in V-JEPA 2-AC's training.
        """
        specs = {spec.name: spec for spec in self.inputs["rollout_step"]}
        latents = self.call("encoder", self._cut(clip, 0, self.facts.window))["latents"]
        cache = (2, *specs["cache_k"].shape[1:])
        state: Tensors = {
            "latents": np.repeat(latents[:, -self.facts.tokens_per_step :], 2, axis=0),
            "cache_k": np.zeros(cache, np.float32),
            "cache_v": np.zeros(cache, np.float32),
        }
        random = np.random.default_rng(number)
        found = []
        for step in range(cache[3] // (self.facts.tokens_per_step + 2) + 1):
            given = state | {"step": np.array([step])}
            for name in set(specs) - set(given):
                shape = (2, *specs[name].shape[1:])
                given[name] = random.uniform(-1, 1, shape).astype(np.float32)
            outputs = self.call("rollout_step", given)
            found.append(Feed(clip=clip.name, inputs=given, outputs=outputs, begins=step == 0))
            state = {name: outputs[f"next_{name}"] for name in state}
        return found

    def samples(self, graph: str, clips: Sequence[Clip]) -> list[Tensors]:
        """Inputs of every call of `graph`, whole; as many of a stream's as fit in `SAMPLES_BYTES`.

        Raises `InputError` when a clip is shorter than the model's window.
        """
        if graph != "step":
            return [feed.inputs for feed in self.feeds(graph, clips)]
        size = sum(8 * math.prod(spec.shape) for spec in self.inputs["step"])
        calls = sum(map(self._steps, clips))
        every = max(1, math.ceil(calls * size / SAMPLES_BYTES))
        found = []
        for number, clip in enumerate(clips):
            for step, (given, _) in enumerate(self._calls(clip)):
                if (step + number) % every == 0:
                    found.append({name: array.copy() for name, array in given.items()})
        return found

    def _stream(self, clip: Clip) -> list[Feed]:
        """One feed a step; only where a stream begins does it hold the (empty) memory."""
        return [
            Feed(
                clip=clip.name,
                inputs=self._empty(given) if step == 0 else _sensed(given),
                outputs={name: a for name, a in outputs.items() if not name.startswith(NEW)},
                begins=step == 0,
            )
            for step, (given, outputs) in enumerate(self._calls(clip))
        ]

    def _calls(self, clip: Clip) -> Iterator[tuple[Tensors, Tensors]]:
        ring = KvRing(self.inputs["step"], self.outputs["step"])
        for step in range(self._steps(clip)):
            given = self._cut(clip, step, 1) | ring.feed()
            outputs = self.call("step", given)
            yield given, outputs
            ring.take(outputs)

    def _empty(self, given: Tensors) -> Tensors:
        fresh = KvRing(self.inputs["step"], self.outputs["step"]).feed()
        return _sensed(given) | fresh

    def _steps(self, clip: Clip) -> int:
        if clip.video is not None:
            return int(clip.video.shape[1]) // FRAMES_PER_STEP
        assert clip.audio is not None
        return int(clip.audio.shape[2]) // self.senses.mel_frames_per_step

    def _cut(self, clip: Clip, first: int, count: int) -> Tensors:
        """Steps `first` to `first + count` of what the model senses."""
        if self._steps(clip) < first + count:
            raise InputError(f"clip {clip.name} is shorter than {first + count} steps")
        cut: Tensors = {}
        for name, array, unit in (
            ("video", clip.video, FRAMES_PER_STEP),
            ("audio", clip.audio, self.senses.mel_frames_per_step),
        ):
            if array is not None:
                along = slice(first * unit, (first + count) * unit)
                part = array[:, along] if name == "video" else array[..., along]
                cut[name] = np.ascontiguousarray(part)[None]
        return cut

    def _actions(self, clip: Clip, number: int) -> FloatArray:
        """Candidates `[K, J, A]`: the actions taken first, the rest seeded uniform in [-1, 1]."""
        facts = self.facts
        shape = (facts.candidates, facts.rollout_horizon, facts.action_dim)
        actions = np.random.default_rng(number).uniform(-1, 1, shape).astype(np.float32)
        taken = None if clip.actions is None else clip.actions[-facts.rollout_horizon :]
        if taken is not None and len(taken) == facts.rollout_horizon:
            actions[0] = taken
        return actions


def _sensed(given: Tensors) -> Tensors:
    return {name: array for name, array in given.items() if name in ("video", "audio")}
