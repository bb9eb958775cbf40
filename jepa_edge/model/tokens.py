"""Frames and sound → one sequence of tokens, step by step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.contract import FRAMES_PER_STEP, InputError
from jepa_edge.model.config import ModelConfig


def _embedding(config: ModelConfig) -> nn.Module:
    """Two frames' channels `[B, 6, H, W]` → `[B, D, H/16, W/16]` (or by another patch)."""
    channels, dim = 3 * FRAMES_PER_STEP, config.encoder.dim
    if config.encoder.stem == "patch":
        return nn.Conv2d(channels, dim, config.patch, config.patch)
    return nn.Sequential(
        nn.Conv2d(channels, 32, 4, 4),
        nn.GELU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(64, dim, 3, 2, 1),
        nn.GELU(),
        nn.Conv2d(dim, dim, 1),
    )


class Tokens(nn.Module):
    """Tubelet and spectrogram patches, embedded; per step the video tokens, then the audio tokens.

    A tubelet embedding (Conv3d over 2x16x16) is written as a Conv2d over the two frames' channels:
    the same numbers, and an operator that every engine and quantizer knows.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim, senses = config.encoder.dim, config.senses
        both = senses.video is not None and senses.audio is not None
        if senses.video:
            self.video = _embedding(config)
        if senses.audio:
            self.audio = nn.Linear(config.mel_patch * senses.mel_frames_per_step, dim)
        if both:
            self.modality = nn.Parameter(0.02 * torch.randn(2, dim))

    def begin_stem(self) -> None:
        """Initialises a stack of convolutions so that signals keep their size (He et al. 2015)."""
        stem = getattr(self, "video", None)
        for layer in stem if isinstance(stem, nn.Sequential) else ():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """Tokens `[B, S, N, D]` of whichever senses are given.

        Args:
            video: `[B, 3, 2*S, H, W]` or None.
            audio: `[B, 1, M, S*t]` or None, over the same S steps.

        Raises:
            InputError: neither is given, the model lacks the sense, or they differ in length.
        """
        parts = []
        if video is not None:
            parts.append(self._with_modality(self._video_tokens(video), 0))
        if audio is not None:
            parts.append(self._with_modality(self._audio_tokens(audio), 1))
        if not parts:
            raise InputError("the encoder was given neither video nor audio")
        if len({part.shape[1] for part in parts}) > 1:
            raise InputError(f"video has {parts[0].shape[1]} steps, audio {parts[1].shape[1]}")
        return torch.cat(parts, dim=2)

    def _video_tokens(self, video: Tensor) -> Tensor:
        if self.config.senses.video is None:
            raise InputError(f"{self.config.name} has no video tokens, but video was given")
        batch, channels, frames, height, width = video.shape
        steps = frames // FRAMES_PER_STEP
        paired = video.view(batch, channels, steps, FRAMES_PER_STEP, height, width)
        stacked = paired.transpose(1, 2).flatten(0, 1).flatten(1, 2)
        patches = self.video(stacked).flatten(2).transpose(1, 2)
        tokens: Tensor = patches.view(batch, steps, patches.shape[1], patches.shape[2])
        return tokens

    def _audio_tokens(self, audio: Tensor) -> Tensor:
        if self.config.senses.audio is None:
            raise InputError(f"{self.config.name} has no audio tokens, but audio was given")
        batch, _, mel_bins, frames = audio.shape
        length = self.config.senses.mel_frames_per_step
        patch = self.config.mel_patch
        split = audio.view(batch, mel_bins // patch, patch, frames // length, length)
        tokens: Tensor = self.audio(split.permute(0, 3, 1, 2, 4).flatten(3))
        return tokens

    def _with_modality(self, tokens: Tensor, index: int) -> Tensor:
        return tokens + self.modality[index] if hasattr(self, "modality") else tokens
