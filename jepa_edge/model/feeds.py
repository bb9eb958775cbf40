"""What each graph gets and gives on real clips in eager fp32: for calibration and parity."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jepa_edge.contract import FRAMES_PER_STEP, InputError
from jepa_edge.media.clips import Clip
from jepa_edge.model.graphs import GraphSource
from jepa_edge.model.jepa import JEPA

Tensors = dict[str, npt.NDArray[Any]]


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a graph: its inputs, the eager outputs, and whether a stream begins here."""

    clip: str
    inputs: Tensors
    outputs: Tensors
    begins: bool = True


@torch.no_grad()
def feeds_of(model: JEPA, source: GraphSource, clips: list[Clip]) -> list[Feed]:
    """Every call of `source` that `clips` lead to, chained as at run time.

    The predictor gets the encoder's latents, the step graph a running cache, the rollout the
    clip's pooled latents with the actions taken (seeded uniform ones for clips without).

    Raises `InputError` when the clips are shorter than the model's window.
    """
    window = model.config.window
    feeds: list[Feed] = []
    for number, clip in enumerate(clips):
        senses = _senses(clip)
        if source.name == "step":
            feeds += _step_feeds(model, source, clip.name, senses)
            continue
        shortened = _cut(model, senses, 0, window)
        if source.name == "encoder":
            given = shortened
        else:
            latents, pooled = model(*_pair(model, shortened))
            if source.name == "predictor":
                given = [latents.flatten(1, 2)]
            else:
                given = [pooled[:, -model.facts().history :], _actions(model, clip, number)]
        feeds.append(_feed(source, clip.name, given))
    return feeds


def _senses(clip: Clip) -> list[Tensor]:
    return [torch.from_numpy(a)[None] for a in (clip.video, clip.audio) if a is not None]


def _pair(model: JEPA, given: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    senses = model.config.senses
    if senses.video and senses.audio:
        return given[0], given[1]
    return (given[0], None) if senses.video else (None, given[0])


def _cut(model: JEPA, given: list[Tensor], first: int, count: int) -> list[Tensor]:
    """Steps `first` to `first + count` of the senses."""
    per_step = model.config.senses.mel_frames_per_step
    cut = []
    for tensor in given:
        video = tensor.ndim == 5
        unit, axis = (FRAMES_PER_STEP, 2) if video else (per_step, 3)
        if tensor.shape[axis] < (first + count) * unit:
            raise InputError(f"a clip is shorter than {first + count} steps")
        cut.append(tensor.narrow(axis, first * unit, count * unit))
    return cut


def _step_feeds(model: JEPA, source: GraphSource, name: str, senses: list[Tensor]) -> list[Feed]:
    state = list(model.encoder.empty_cache())
    unit, axis = (
        (FRAMES_PER_STEP, 2)
        if model.config.senses.video
        else (model.config.senses.mel_frames_per_step, 3)
    )
    feeds = []
    for step in range(senses[0].shape[axis] // unit):
        feed = _feed(source, name, [*_cut(model, senses, step, 1), *state], begins=step == 0)
        feeds.append(feed)
        state = [
            torch.from_numpy(feed.outputs[f"next_{k}"]) for k in ("cache_k", "cache_v", "filled")
        ]
    return feeds


def _actions(model: JEPA, clip: Clip, number: int) -> Tensor:
    """Candidate actions `[K, J, A]`: those taken first, the rest seeded uniform in [-1, 1]."""
    facts = model.facts()
    random = np.random.default_rng(number)
    shape = (facts.candidates, facts.rollout_horizon, facts.action_dim)
    actions = random.uniform(-1, 1, shape).astype(np.float32)
    taken = None if clip.actions is None else clip.actions[-facts.rollout_horizon :]
    if taken is not None and len(taken) == facts.rollout_horizon:
        actions[0] = taken
    return torch.from_numpy(actions)


def _feed(source: GraphSource, clip: str, given: list[Tensor], *, begins: bool = True) -> Feed:
    out = source.module(*given)
    outputs = out if isinstance(out, tuple) else (out,)
    return Feed(
        clip=clip,
        inputs={s.name: t.contiguous().numpy() for s, t in zip(source.inputs, given, strict=True)},
        outputs={s.name: t.numpy() for s, t in zip(source.outputs, outputs, strict=True)},
        begins=begins,
    )
