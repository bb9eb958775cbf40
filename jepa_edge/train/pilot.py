"""Pilots, trained in stages: where things are from single steps, then what actions change.

A clip of seven steps shows one scene; seven steps of seven episodes show seven. On two CPU cores
the encoder learns several times as fast from the latter. With it frozen, every recorded latent is
computed once, and rollouts are learnt from those: V-JEPA 2-AC (arXiv:2506.09985) does the same.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.contract import WrongUseError
from jepa_edge.model.checkpoint import MODEL_FILE, save_checkpoint
from jepa_edge.model.jepa import JEPA
from jepa_edge.train.clips import ClipStore
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.learner import Learner, autocast, sigreg_at_each_step
from jepa_edge.train.loop import LOG_FILE
from jepa_edge.train.objectives import ground_error
from jepa_edge.train.resume import save_state, saved_state

ROLLOUT_BATCH = 128
CLIP_NORM = 1.0


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a pilot's training: what learns, and from which losses at each of its steps."""

    name: str
    steps: int
    learns: list[nn.Module]
    losses: Callable[[], Callable[[int], dict[str, Tensor]]]
    """Called when the stage begins; what it returns, at each step."""


def train_pilot(
    learner: Learner,
    clips: ClipStore,
    heldout: ClipStore,
    config: TrainConfig,
    shown: Callable[[int, dict[str, float]], None],
) -> Path:
    """All stages; the checkpoint, its held-out errors logged beside it.

    Interrupted (Ctrl-C), it saves first; called again, it goes on from there.

    Raises:
        WrongUseError: recordings without actions or state.
        InputError: the run's folder holds one with other settings.
    """
    run = _Run(learner.model, config)
    for index, stage in enumerate(_stages(learner, clips, config)):
        if index >= run.stage:
            run.teach(index, stage, heldout, shown)
    return run.out / MODEL_FILE


class _Run:
    """How far a run is: steps `before` the stage that is at `step`."""

    def __init__(self, model: JEPA, config: TrainConfig) -> None:
        self.model, self.config, self.out = model, config, Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.stage = self.step = self.before = 0
        self.saved = saved_state(config, torch.device("cpu"))
        if self.saved:
            model.load_state_dict(self.saved["model"])
            self.stage, self.step = self.saved["stage"], self.saved["step"]
            self.before = _before(config, self.stage)

    def teach(
        self,
        index: int,
        stage: Stage,
        heldout: ClipStore,
        shown: Callable[[int, dict[str, float]], None],
    ) -> None:
        """The rest of a stage."""
        config, chosen = self.config, [p for part in stage.learns for p in part.parameters()]
        optimizer = torch.optim.AdamW(chosen, betas=(0.9, 0.98), weight_decay=config.weight_decay)
        if self.saved and index == self.stage:
            optimizer.load_state_dict(self.saved["optimizer"])
        self.stage = index
        losses_at = stage.losses() if self.step < stage.steps else None
        try:
            while losses_at and self.step < stage.steps:
                losses = losses_at(self.step)
                _descend(optimizer, losses, chosen, _rate(config, self.step, stage.steps))
                self.step += 1
                numbers = {name: loss.item() for name, loss in losses.items()}
                if self.step % config.evaluate_every == 0 or self.step == stage.steps:
                    errors = heldout_errors(self.model, heldout)
                    _log(self.out, stage.name, self.step, numbers, errors)
                if self.step % config.save_every == 0:
                    self.save(optimizer)
                shown(self.before + self.step, numbers)
        finally:
            self.save(optimizer)
        self.before, self.step = self.before + stage.steps, 0

    def save(self, optimizer: torch.optim.Optimizer) -> None:
        """All that is needed to go on, and the checkpoint."""
        parts = {"model": self.model.state_dict(), "optimizer": optimizer.state_dict()}
        save_state(self.config, {"stage": self.stage, "step": self.step, **parts})
        save_checkpoint(self.model, self.out / MODEL_FILE)


def _stages(learner: Learner, clips: ClipStore, config: TrainConfig) -> list[Stage]:
    model, action = learner.model, learner.model.action_predictor
    assert action is not None
    sees: list[nn.Module] = [model.encoder, model.pool]
    return [
        Stage(
            name="encoder",
            steps=config.steps,
            learns=sees,
            losses=lambda: _alone(learner, clips, config),
        ),
        Stage(
            name="joint",
            steps=config.joint_steps,
            learns=[*sees, action],
            losses=lambda: _jointly(learner, clips, config),
        ),
        Stage(
            name="rollout",
            steps=config.rollout_steps,
            learns=[action],
            losses=lambda: _rolled(model, clips, config),
        ),
    ]


def steps_done(config: TrainConfig) -> int:
    """Steps of all stages that the run in its folder has done. Raises as `train_pilot`."""
    saved = saved_state(config, torch.device("cpu"))
    return _before(config, saved["stage"]) + int(saved["step"]) if saved else 0


def _before(config: TrainConfig, stage: int) -> int:
    """Steps of the stages before the one numbered `stage`."""
    return sum((config.steps, config.joint_steps, config.rollout_steps)[:stage])


def _alone(
    learner: Learner, clips: ClipStore, config: TrainConfig
) -> Callable[[int], dict[str, Tensor]]:
    """Single steps become their grounds; the free dimensions a normal sample (SIGReg)."""
    single = msgspec.structs.replace(clips, steps=1)

    def losses(step: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        batch = single.draw(config.batch, np.random.default_rng((config.seed, step)))
        batch = learner.varied(batch, random)
        with autocast("cpu", wanted=config.bf16):
            _, pooled = learner.model(batch.video, batch.audio)
        assert batch.grounds is not None
        return _encoder_losses(pooled.float(), batch.grounds, random, config)

    return losses


def _jointly(
    learner: Learner, clips: ClipStore, config: TrainConfig
) -> Callable[[int], dict[str, Tensor]]:
    """Encoder and rollout together, so that latents hold what the future needs.

    A latent's free dimensions learn nothing from single steps; where the next trunk stands must be
    in them for the gap beside it to be known a second ahead. The gradients of what is rolled out
    reach the encoder, as in value-equivalent models (MuZero, arXiv:1911.08265). With
    `latent_weight`, so do those of the next whole latent, predicted and seen (LeWM).
    """
    model, action = learner.model, learner.model.action_predictor
    assert action is not None
    past = action.spec.history
    whole = msgspec.structs.replace(clips, steps=past + action.spec.horizon)
    count, sensed = len(model.config.grounded), past + bool(config.latent_weight)

    def losses(step: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + config.steps + step)
        draw = np.random.default_rng((config.seed, 2, step))
        clip = whole.draw(config.batch // past, draw, sensed=sensed)
        assert clip.actions is not None
        assert clip.grounds is not None
        seen = learner.varied(clip, random)
        with autocast("cpu", wanted=config.bf16):
            _, pooled = model(seen.video, seen.audio)
            rolled = action(pooled[:, :past], clip.actions[:, past:])
        pooled, rolled, true = pooled.float(), rolled.float(), clip.grounds
        found = _encoder_losses(pooled, true[:, :sensed], random, config) | {
            "rolled": ground_error(rolled[..., :count], true[:, past:], config)
        }
        if config.latent_weight:
            error = functional.mse_loss(rolled[:, 0], pooled[:, past])
            found["latent"] = config.latent_weight * error
        return found

    return losses


def _rolled(
    model: JEPA, clips: ClipStore, config: TrainConfig
) -> Callable[[int], dict[str, Tensor]]:
    """With the encoder as it is, the latents after each action of what was recorded."""
    action = model.action_predictor
    assert action is not None
    found = [_encoded(model, clips, index) for index in range(len(clips.recordings))]
    past, ahead = action.spec.history, action.spec.horizon
    starts = [(i, s) for i, (z, *_) in enumerate(found) for s in range(past, len(z) - ahead + 1)]
    count = len(model.config.grounded)

    def losses(step: int) -> dict[str, Tensor]:
        draw = np.random.default_rng((config.seed, 1, step))
        picks = [starts[k] for k in draw.integers(len(starts), size=ROLLOUT_BATCH)]
        history = torch.stack([found[i][0][s - past : s] for i, s in picks])
        taken = torch.stack([found[i][1][s : s + ahead] for i, s in picks])
        wanted = torch.stack([found[i][0][s : s + ahead] for i, s in picks])
        true = torch.stack([found[i][2][s : s + ahead] for i, s in picks])
        rolled = action(history, taken)
        return {
            "action": functional.mse_loss(rolled, wanted),
            "rolled": config.ground_weight * ground_error(rolled[..., :count], true, config),
        }

    return losses


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Root mean squared errors of a grounded dimension on held-out recordings, in its unit.

    ``seen`` of a step's own latent, ``rolled`` of latents rolled out, ``copied`` of keeping the
    last one: mean over the horizon.
    """

    name: str
    std: float
    seen: float
    rolled: float
    copied: float


@torch.no_grad()
def heldout_errors(model: JEPA, clips: ClipStore) -> list[Errors]:
    """Of every grounded dimension."""
    action = model.action_predictor
    assert action is not None
    past, ahead, count = action.spec.history, action.spec.horizon, len(model.config.grounded)
    sums = {"seen": [], "rolled": [], "copied": []}  # type: dict[str, list[Tensor]]
    for index in range(len(clips.recordings)):
        pooled, actions, true = _encoded(model, clips, index)
        sums["seen"].append((pooled[:, :count] - true).square())
        starts = range(past, len(pooled) - ahead + 1, 3)
        history = torch.stack([pooled[s - past : s] for s in starts])
        rolled = action(history, torch.stack([actions[s : s + ahead] for s in starts]))
        wanted = torch.stack([true[s : s + ahead] for s in starts])
        sums["rolled"].append((rolled[..., :count] - wanted).square().flatten(0, 1))
        sums["copied"].append((history[:, -1:, :count] - wanted).square().flatten(0, 1))
    rms = {name: torch.cat(parts).mean(0).sqrt().tolist() for name, parts in sums.items()}
    return [
        Errors(
            name=g.name,
            std=g.std,
            seen=round(g.std * rms["seen"][i], 4),
            rolled=round(g.std * rms["rolled"][i], 4),
            copied=round(g.std * rms["copied"][i], 4),
        )
        for i, g in enumerate(model.config.grounded)
    ]


def _log(out: Path, stage: str, step: int, losses: dict[str, float], heldout: list[Errors]) -> None:
    line = {
        "stage": stage,
        "step": step,
        "losses": losses,
        "heldout": msgspec.to_builtins(heldout),
    }
    with (out / LOG_FILE).open("a") as log:
        log.write(json.dumps(line) + os.linesep)


@torch.no_grad()
def _encoded(model: JEPA, clips: ClipStore, index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents `[S, P]`, actions `[S, A]` and grounds `[S, G]` of a whole recording."""
    recorded = clips.recordings[index]
    whole = msgspec.structs.replace(clips, steps=recorded.steps)
    batch = whole.batch_of([(recorded, 0)])
    if batch.actions is None or batch.grounds is None:
        raise WrongUseError(f"{recorded.name} has no actions or state to learn a pilot from")
    model.eval()
    pooled = model(batch.video, batch.audio)[1][0]
    model.train()
    return pooled, batch.actions[0], batch.grounds[0]


def _encoder_losses(
    pooled: Tensor, true: Tensor, random: torch.Generator, config: TrainConfig
) -> dict[str, Tensor]:
    count = true.shape[-1]
    return {
        "grounded": ground_error(pooled[..., :count], true, config),
        "sigreg": 0.02 * sigreg_at_each_step(pooled[..., count:], random),
    }


def _descend(
    optimizer: torch.optim.Optimizer,
    losses: dict[str, Tensor],
    chosen: list[nn.Parameter],
    rate: float,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(chosen, CLIP_NORM)
    optimizer.step()


def _rate(config: TrainConfig, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
