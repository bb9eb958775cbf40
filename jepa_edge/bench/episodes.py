"""Recorded episodes, decoded once and cut into windows, split into training and test episodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jepa_edge.contract import FRAMES_PER_STEP, InputError, Senses
from jepa_edge.media.clips import Clip
from jepa_edge.media.dataset import Episode, open_dataset
from jepa_edge.media.features import log_mel, video_from_frames

TEST_SHARE = 0.3


class Recorded:
    """Up to `limit` episodes of a dataset; every third or so is kept for the test."""

    def __init__(self, folder: Path, senses: Senses, *, window: int, limit: int, seed: int) -> None:
        dataset = open_dataset(folder)
        self.name, self.window, self.senses = folder.name, window, senses
        self.state_names = list(dataset.state_names)
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(dataset.episodes)[:limit].tolist()
        if len(chosen) < 4:
            raise InputError(
                f"{folder} has {dataset.episodes} episodes; a probe needs at least 4 (more: "
                "jepa-edge record --episodes 40)"
            )
        held = max(1, round(len(chosen) * TEST_SHARE))
        self.test: list[int] = sorted(chosen[:held])
        self.train: list[int] = sorted(chosen[held:])
        self._clips = {index: self._whole(dataset.read(index, senses), index) for index in chosen}

    def windows(self, index: int, *, stride: int) -> list[Clip]:
        """Clips of one window each, `stride` steps apart."""
        whole = self._clips[index]
        assert whole.state is not None
        starts = range(0, len(whole.state) - self.window + 1, stride)
        return [self.cut(whole, start) for start in starts]

    def cut(self, whole: Clip, start: int) -> Clip:
        """The window of `whole` that begins at step `start`."""
        end, mel = start + self.window, self.senses.mel_frames_per_step
        frames = slice(start * FRAMES_PER_STEP, end * FRAMES_PER_STEP)
        return Clip(
            name=f"{whole.name}#{start}",
            video=None if whole.video is None else np.ascontiguousarray(whole.video[:, frames]),
            audio=None if whole.audio is None else whole.audio[..., start * mel : end * mel],
            state=None if whole.state is None else whole.state[start:end],
        )

    def _whole(self, episode: Episode, index: int) -> Clip:
        audio = self.senses.audio
        steps = len(episode.state)
        if steps <= self.window:
            raise InputError(
                f"{self.name}/{index} lasts {steps} steps; a window of {self.window} and what "
                "comes after it do not fit"
            )
        samples = np.zeros(steps * self.senses.samples_per_step, np.float32)
        samples[: len(episode.samples)] = episode.samples[: len(samples)]
        return Clip(
            name=f"{self.name}/{index}",
            video=video_from_frames(episode.frames, self.senses.video)
            if self.senses.video
            else None,
            audio=log_mel(samples, audio)[None] if audio else None,
            state=episode.state,
        )
