"""A training run, one step a line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import distributed as dist

from jepa_edge.bundle import Grounded
from jepa_edge.contract import WrongUseError
from jepa_edge.model.checkpoint import MODEL_FILE
from jepa_edge.model.config import ModelConfig
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.presets import preset
from jepa_edge.train.clips import (
    ClipStore,
    Recorded,
    mirrored,
    read_recordings,
    state_variables,
)
from jepa_edge.train.config import TrainConfig
from jepa_edge.train.evaluate import Evaluation
from jepa_edge.train.learner import Learner
from jepa_edge.train.loop import Run
from jepa_edge.train.pilot import Errors, heldout_errors, steps_done, train_pilot


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left behind."""

    checkpoint: str
    steps: int
    resumed_from: int
    parameters: int
    heldout: Evaluation | None
    grounded: list[Errors] = []


def train(config: TrainConfig, *, model_config: ModelConfig | None = None) -> Trained:
    """Trains, or goes on with, the run described by `config`; `model_config` replaces its preset.

    Raises:
        InputError: the data cannot be read, or `out` holds another run.
        CheckFailedError: the latents collapsed.
    """
    spec = model_config or preset(config.preset)
    spec = msgspec.structs.replace(
        spec, name=config.name or spec.name, effort=config.effort, caution=config.caution
    )
    if not config.hears:
        spec = msgspec.structs.replace(
            spec, senses=msgspec.structs.replace(spec.senses, audio=None)
        )
    with _process_group() as rank, _bars(quiet=rank > 0) as bars:
        spec, clips, heldout = _clips(config, spec, bars)
        if config.mirror_actions:
            clips = _with_mirrored(config, clips)
        if config.ground:
            spec, clips, heldout = _ground(config, spec, clips, heldout)
        if config.state_weight:
            variables = state_variables(clips.recordings)
            clips = msgspec.structs.replace(clips, variables=variables)
            heldout = msgspec.structs.replace(heldout, variables=variables)
        torch.manual_seed(config.seed)
        if config.rollout_steps:
            return _pilot(config, spec, clips, heldout, bars)
        learner = Learner(JEPA(spec).train(), config, len(clips.variables))
        run = Run(learner, config, _device())
        run.resume()
        resumed = run.step
        with _tensorboard(Path(config.out), rank) as logger:
            shown = _Shown(bars, config.steps, resumed)
            found = run.train(clips, heldout, logger=logger, progress=shown)
    return Trained(
        checkpoint=str(Path(config.out) / MODEL_FILE),
        steps=run.step,
        resumed_from=resumed,
        parameters=sum(p.numel() for p in run.learner.model.parameters()),
        heldout=found,
    )


def _with_mirrored(config: TrainConfig, clips: ClipStore) -> ClipStore:
    """Also what was recorded elsewhere than in the `unmirrored` folders, mirrored."""
    if unknown := set(config.unmirrored) - set(config.data.split(",")):
        raise WrongUseError(f"unmirrored names {sorted(unknown)}, which data does not")
    kept = {Path(folder).name for folder in config.unmirrored}
    more = [
        mirrored(recorded, config.mirror, config.mirror_actions)
        for recorded in clips.recordings
        if recorded.name.partition("/")[0] not in kept
    ]
    return msgspec.structs.replace(clips, recordings=clips.recordings + more)


def _pilot(
    config: TrainConfig, spec: ModelConfig, clips: ClipStore, heldout: ClipStore, bars: Progress
) -> Trained:
    """The stages of a pilot."""
    learner = Learner(JEPA(spec).train(), config)
    steps, resumed = config.steps + config.joint_steps + config.rollout_steps, steps_done(config)
    shown = _Shown(bars, steps, resumed)
    path = train_pilot(learner, clips, heldout, config, shown.update)
    return Trained(
        checkpoint=str(path),
        steps=steps,
        resumed_from=resumed,
        parameters=sum(p.numel() for p in learner.model.parameters()),
        heldout=None,
        grounded=heldout_errors(learner.model, heldout),
    )


def _clips(
    config: TrainConfig, spec: ModelConfig, bars: Progress
) -> tuple[ModelConfig, ClipStore, ClipStore]:
    """Training and held-out clips; every tenth recording (`heldout`) is never trained on.

    The model takes as many actions as the recorded robots have.
    """
    if not config.data:
        raise WrongUseError("no data; give --data (a dataset of `jepa-edge record`, or videos)")
    task = bars.add_task("reading clips", total=None, note="")
    recordings = read_recordings(
        config.data,
        spec.senses,
        steps=spec.training_steps,
        progress=lambda done, total: bars.update(task, completed=done, total=total),
    )
    bars.remove_task(task)
    if len(recordings) < 2:
        raise WrongUseError("at least two recordings are needed: one is held out to measure on")
    every = max(2, round(1 / config.heldout))
    kept = [r for index, r in enumerate(recordings) if index % every != every - 1]
    held = [r for index, r in enumerate(recordings) if index % every == every - 1]
    widths = {r.actions.shape[1] for r in recordings if r.actions is not None}
    if spec.action and len(widths) > 1:
        raise WrongUseError(f"robots with {sorted(widths)} actions cannot share one model")
    if spec.action and widths:
        action = msgspec.structs.replace(spec.action, action_dim=widths.pop())
        spec = msgspec.structs.replace(spec, action=action)
    dim = spec.action.action_dim if spec.action else 0

    def store(chosen: list[Recorded]) -> ClipStore:
        return ClipStore(
            recordings=chosen, senses=spec.senses, steps=spec.training_steps, action_dim=dim
        )

    return spec, store(kept), store(held or recordings[-1:])


def _ground(
    config: TrainConfig, spec: ModelConfig, clips: ClipStore, heldout: ClipStore
) -> tuple[ModelConfig, ClipStore, ClipStore]:
    """The model and the clips, with what the first pooled dimensions are to be."""
    plain = tuple(
        Grounded(
            name=name,
            mean=0.0,
            std=1.0,
            goal=name in config.goal,
            at_least=config.at_least.get(name),
        )
        for name in config.ground
    )
    every = np.concatenate([recorded.quantities(plain) for recorded in clips.recordings])
    means, stds = every.mean(0).tolist(), np.maximum(every.std(0), 1e-3).tolist()
    grounded = tuple(
        msgspec.structs.replace(g, mean=round(mean, 5), std=round(std, 5))
        for g, mean, std in zip(plain, means, stds, strict=True)
    )
    replace = msgspec.structs.replace
    return (
        replace(spec, grounded=grounded),
        replace(clips, grounded=grounded),
        replace(heldout, grounded=grounded),
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def _process_group() -> Iterator[int]:
    """Joins the processes that torchrun started; the rank of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


@contextmanager
def _tensorboard(out: Path, rank: int) -> Iterator[_Scalars]:
    writer = _Scalars(out / "tensorboard" if rank == 0 else None)
    try:
        yield writer
    finally:
        writer.close()


class _Scalars:
    """TensorBoard's writer on the first process, nothing on the others."""

    def __init__(self, folder: Path | None) -> None:
        self.writer = None
        if folder is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tensorboard imports deprecated modules
                from torch.utils.tensorboard import SummaryWriter
            self.writer = SummaryWriter(str(folder))

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if self.writer is not None:
            self.writer.add_scalar(tag, scalar_value, global_step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _bars(*, quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=quiet,
    )


class _Shown:
    """The bar of the training loop."""

    def __init__(self, bars: Progress, steps: int, done: int) -> None:
        self.bars = bars
        self.task = bars.add_task("training", total=steps, completed=done, note="")

    def update(self, step: int, losses: dict[str, float]) -> None:
        note = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        self.bars.update(self.task, completed=step, note=note)
