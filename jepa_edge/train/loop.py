"""The training loop: every step depends on (seed, step) alone, so a resumed run is the same run."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from jepa_edge.model.blocks import Attention
from jepa_edge.model.checkpoint import MODEL_FILE, save_checkpoint
from jepa_edge.train.clips import ClipStore
from jepa_edge.train.collapse import CollapseGuard
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.evaluate import Evaluation, evaluate
from jepa_edge.train.learner import Learner, autocast
from jepa_edge.train.resume import save_state, saved_state

LOG_FILE = "log.jsonl"


class Logger(Protocol):
    """Where scalars go (TensorBoard's SummaryWriter is one)."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        """Records one number."""


class Progress(Protocol):
    """What a person watches."""

    def update(self, step: int, losses: dict[str, float]) -> None:
        """Shows the losses of `step`."""


class Run:
    """A run in progress: what to save, and how to go on from it."""

    def __init__(self, learner: Learner, config: TrainConfig, device: torch.device) -> None:
        self.learner, self.config, self.device = learner.to(device), config, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        parallel = nn.parallel.DistributedDataParallel
        self.wrapped: nn.Module = (
            parallel(learner, find_unused_parameters=True) if self.world > 1 else learner
        )
        self.optimizer = _optimizer(learner, config)
        self.step = 0
        self.out = Path(config.out)

    def train(
        self, clips: ClipStore, heldout: ClipStore, *, logger: Logger, progress: Progress
    ) -> Evaluation:
        """Runs to the last step; returns the last evaluation.

        Raises `CheckFailedError` on collapse. Interrupted (Ctrl-C), it saves first.
        """
        guard = CollapseGuard(self.config.collapse_rank)
        last: Evaluation | None = None
        try:
            while self.step < self.config.steps:
                losses = self._train_step(clips)
                self.step += 1
                progress.update(self.step, losses)
                for name, value in losses.items():
                    logger.add_scalar(f"loss/{name}", value, self.step)
                if self._is_to_be_measured():
                    last = self._evaluate(heldout, losses, logger)
                    guard.watch(self.step, last.spread)
                if self.step % self.config.save_every == 0:
                    self.save()
        finally:
            self.save()
        return last or self._evaluate(heldout, {}, logger)

    def save(self) -> None:
        """Writes the checkpoint and all that resuming needs, each whole or not at all."""
        if self.rank:
            return
        save_state(
            self.config,
            {
                "step": self.step,
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )
        save_checkpoint(self.learner.model, self.out / MODEL_FILE)

    def resume(self) -> bool:
        """Goes on from the last save, if there is one; says whether there was.

        Raises `InputError` when that run had other settings (only `steps` may grow).
        """
        state = saved_state(self.config, self.device)
        if state is None:
            return False
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        return True

    def _train_step(self, clips: ClipStore) -> dict[str, float]:
        config = self.config
        torch.manual_seed(hash((config.seed, self.step, self.rank)) % 2**63)
        random = torch.Generator().manual_seed(torch.initial_seed())
        draw = np.random.default_rng((config.seed, self.step, self.rank))
        alone = self.step < config.single_steps
        if alone:
            clips = msgspec.structs.replace(clips, steps=1)
        batch = clips.draw(config.single_batch if alone else config.batch, draw).to(self.device)
        if config.encoder_is_finished(self.step):
            self.learner.finish_encoder()
        for group in self.optimizer.param_groups:
            group["lr"] = _learning_rate(config, self.step)
        with autocast(self.device.type, wanted=config.bf16):
            losses: dict[str, Tensor] = self.wrapped(batch, random, alone=alone)
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learner.trained(), config.clip_norm)
        self.optimizer.step()
        if config.score_limit:
            _limit_scores(self.learner.model, config.score_limit)
        self.learner.follow(_momentum(config, self.step))
        return {"total": total.item()} | {name: loss.item() for name, loss in losses.items()}

    def _is_to_be_measured(self) -> bool:
        """Now and then once clips are learnt: single steps teach nothing of what comes next."""
        due = self.step % self.config.evaluate_every == 0 or self.step == self.config.steps
        return due and self.step > self.config.single_steps

    def _evaluate(self, heldout: ClipStore, losses: dict[str, float], logger: Logger) -> Evaluation:
        found = evaluate(
            self.learner.model,
            heldout,
            device=self.device,
            stride=heldout.steps,
            state=self.learner.state,
        )
        numbers = msgspec.to_builtins(found)
        flat = {k: v for k, v in numbers.items() if isinstance(v, float)}
        flat |= {f"pooled_{k}": v for k, v in numbers["spread"].items()}
        for name, value in flat.items():
            logger.add_scalar(f"heldout/{name}", value, self.step)
        if self.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            line = {"step": self.step, "losses": losses, "heldout": numbers}
            with (self.out / LOG_FILE).open("a") as log:
                log.write(json.dumps(line) + os.linesep)
        return found


def _optimizer(learner: Learner, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; biases, norms and embeddings are not decayed."""
    trained = learner.trained()
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))


def _limit_scores(model: nn.Module, limit: float) -> None:
    """Every attention's `limit_scores`, by the largest score that any process saw."""
    for attention in model.modules():
        if not isinstance(attention, Attention) or not attention.qkv.weight.requires_grad:
            continue
        peak = attention.peak
        if peak is None:
            peak = attention.qkv.weight.new_zeros(attention.heads)
        if dist.is_initialized():
            dist.all_reduce(peak, op=dist.ReduceOp.MAX)
        attention.limit_scores(peak, limit)


def _learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then a cosine to 2 % of the peak, in every stage."""
    begin, end = config.stage(step)
    if step - begin < config.warmup:
        return config.learning_rate * (step - begin + 1) / config.warmup
    done = (step - begin - config.warmup) / max(1, end - begin - config.warmup)
    return config.learning_rate * (0.02 + 0.98 * (1 + math.cos(math.pi * min(done, 1.0))) / 2)


def _momentum(config: TrainConfig, step: int) -> float:
    """EMA momentum, rising linearly to 1 as in V-JEPA."""
    return config.ema + (1.0 - config.ema) * step / config.steps
