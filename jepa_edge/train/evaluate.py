"""Held-out numbers of a model: is the future predicted better than by copying or by the mean?"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from jepa_edge.media.features import silence
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.predictor import normalized
from jepa_edge.train.clips import Batch, ClipStore
from jepa_edge.train.collapse import Spread, spread_of

CLIPS_PER_BATCH = 16


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How well one grounded dimension is its quantity: root mean squared errors in its unit.

    ``seen`` of the latent of what was seen, ``rolled`` of what was rolled out, over all horizons.
    """

    name: str
    std: float
    seen: float
    rolled: float


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a state variable's variance the training's linear layer tells: R²."""

    name: str
    r2: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Errors relative to the variance of the target: 1 is what predicting the mean gives.

    It is the mean of that step and place: telling the time or the place alone earns nothing.
    ``predict`` and ``copy_last`` are of dense latents, ``pooled`` and ``pooled_copy_last`` of the
    latents for control, ``action`` and ``action_copy_last`` of rolled-out ones. ``without_sound``
    and ``without_sight`` predict the same targets with one sense taken from the context.
    """

    clips: int
    predict: float
    copy_last: float
    pooled: float
    pooled_copy_last: float
    action: float | None
    action_copy_last: float | None
    without_sound: float | None
    without_sight: float | None
    grounded: list[Told]
    state: list[Explained] = []
    spread: Spread
    dense_spread: Spread


class _Errors:
    """Sums of squared errors and of targets, by name, over all batches."""

    def __init__(self) -> None:
        self.error: dict[str, float] = {}
        self.targets: dict[str, list[Tensor]] = {}

    def add(self, name: str, guess: Tensor, target: Tensor, space: str) -> None:
        squared = float((guess - target).square().sum())
        self.error[name] = self.error.get(name, 0.0) + squared
        if name == space:
            self.targets.setdefault(space, []).append(target)

    def relative(self, name: str, space: str) -> float | None:
        if name not in self.error:
            return None
        target = torch.cat(self.targets[space])
        return self.error[name] / float((target - target.mean(0)).square().sum())


class _Grounds:
    """Squared errors of the grounded dimensions, seen and rolled out."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.rolled: list[Tensor] = []

    def add(self, model: JEPA, batch: Batch, pooled: Tensor) -> None:
        if batch.grounds is None:
            return
        count = batch.grounds.shape[-1]
        self.seen.append((pooled[..., :count] - batch.grounds).square().flatten(0, 1))
        action = model.action_predictor
        if action is not None and batch.actions is not None:
            start, end = action.spec.history, action.spec.history + action.spec.horizon
            rolled = action(pooled[:, :start], batch.actions[:, start:end])[..., :count]
            self.rolled.append((rolled - batch.grounds[:, start:end]).square().flatten(0, 1))

    def rms(self) -> tuple[list[float], list[float]]:
        if not self.seen or not self.rolled:
            return [], []
        seen, rolled = (torch.cat(e).mean(0).sqrt().tolist() for e in (self.seen, self.rolled))
        return seen, rolled


@torch.no_grad()
def evaluate(
    model: JEPA,
    clips: ClipStore,
    *,
    device: torch.device,
    stride: int,
    state: nn.Module | None = None,
) -> Evaluation:
    """Numbers over every held-out clip, one each `stride` steps.

    `state` is the training's layer from pooled latents to state, if it has one.
    """
    was_training = model.training
    model.eval()
    errors, told, pooled_all, dense_all, states = _Errors(), _Grounds(), [], [], []
    picks = clips.grid(stride)
    for first in range(0, len(picks), CLIPS_PER_BATCH):
        batch = clips.batch_of(picks[first : first + CLIPS_PER_BATCH]).to(device)
        latents, pooled = model(batch.video, batch.audio)
        _add_predictions(model, batch, latents, pooled, errors)
        told.add(model, batch, pooled)
        pooled_all.append(pooled)
        if batch.states is not None:
            states.append(batch.states.cpu())
        dense_all.append(normalized(latents)[:, -1, ::7].flatten(0, 1))
    model.train(was_training)

    every = torch.cat(pooled_all)

    def needed(name: str, space: str) -> float:
        return errors.relative(name, space) or 0.0

    return Evaluation(
        clips=len(picks),
        predict=needed("predict", "predict"),
        copy_last=needed("copy_last", "predict"),
        pooled=needed("pooled", "pooled"),
        pooled_copy_last=needed("pooled_copy_last", "pooled"),
        action=errors.relative("action", "action"),
        action_copy_last=errors.relative("action_copy_last", "action"),
        without_sound=errors.relative("without_sound", "predict"),
        without_sight=errors.relative("without_sight", "predict"),
        grounded=[
            Told(name=g.name, std=g.std, seen=g.std * seen, rolled=g.std * rolled)
            for g, seen, rolled in zip(model.config.grounded, *told.rms(), strict=True)
        ],
        state=_explained(clips, state(every), torch.cat(states)) if state and states else [],
        spread=spread_of((every - every.mean(0)).flatten(0, 1)),
        dense_spread=spread_of(torch.cat(dense_all)),
    )


def _explained(clips: ClipStore, told: Tensor, states: Tensor) -> list[Explained]:
    """R² of every variable over the steps where it is known."""
    found = []
    for index, variable in enumerate(clips.variables):
        true, guess = states[..., index], told[..., index].cpu()
        known = true.isfinite()
        if known.any():
            error = (guess[known] - true[known]).square().sum()
            spread = (true[known] - true[known].mean()).square().sum()
            r2 = float(1 - error / spread.clamp(min=1e-9))
            found.append(Explained(name=variable.name, r2=round(r2, 3)))
    return found


def _add_predictions(
    model: JEPA, batch: Batch, latents: Tensor, pooled: Tensor, errors: _Errors
) -> None:
    window, horizon = model.config.window, model.config.horizon
    target = normalized(latents[:, window : window + horizon])
    future, future_pooled = model.predict(latents[:, :window])
    last = normalized(latents[:, window - 1 : window]).expand_as(target)
    errors.add("predict", future, target, "predict")
    errors.add("copy_last", last, target, "predict")
    wanted = pooled[:, window : window + horizon]
    errors.add("pooled", future_pooled, wanted, "pooled")
    copied = pooled[:, window - 1 : window].expand(-1, horizon, -1)
    errors.add("pooled_copy_last", copied, wanted, "pooled")
    for name, less in _with_a_sense_lost(model, batch).items():
        context = model.encoder(less.video, less.audio)[:, :window]
        errors.add(name, model.predict(context)[0], target, "predict")
    action = model.action_predictor
    if action is not None and batch.actions is not None:
        start, ahead = action.spec.history, action.spec.horizon
        rolled = action(pooled[:, :start], batch.actions[:, start : start + ahead])
        wanted = pooled[:, start : start + ahead]
        errors.add("action", rolled, wanted, "action")
        errors.add(
            "action_copy_last", pooled[:, start - 1 : start].expand_as(wanted), wanted, "action"
        )


def _with_a_sense_lost(model: JEPA, batch: Batch) -> dict[str, Batch]:
    audio = model.config.senses.audio
    if batch.video is None or batch.audio is None or audio is None:
        return {}
    quiet = torch.full_like(batch.audio, float(silence(audio, 1)[0, 0]))
    blank = torch.zeros_like(batch.video)
    return {
        "without_sound": Batch(video=batch.video, audio=quiet, actions=None),
        "without_sight": Batch(video=blank, audio=batch.audio, actions=None),
    }
