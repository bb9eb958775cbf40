"""The V-JEPA 2 encoder: clips (and in 2.1 single frames) in, dense latents out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from jepa_edge.contract import InputError
from jepa_edge.model.rotary import Tables, head_tables, step_positions
from jepa_edge.model.vjepa.config import VJepaConfig
from jepa_edge.model.vjepa.layers import Block, Dense


class Patches(nn.Module):
    """Tubelets of a clip as one matrix product (a Conv3d whose stride is its kernel)."""

    def __init__(self, config: VJepaConfig, tubelet: int) -> None:
        super().__init__()
        self.patch, self.tubelet, self.channels = config.patch, tubelet, config.channels
        self.embed = Dense(config.channels * tubelet * config.patch**2, config.encoder.dim)

    def forward(self, video: Tensor) -> Tensor:
        """`[B, C, T, H, W]` → tokens `[B, S*N, D]`; pixels beyond whole patches are cut off."""
        batch, channels, frames, height, width = video.shape
        rows, columns, patch = height // self.patch, width // self.patch, self.patch
        video = video[..., : rows * patch, : columns * patch]
        steps = frames // self.tubelet
        split = video.reshape(batch, channels, steps, self.tubelet, rows, patch, columns, patch)
        flat = split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(
            batch, steps * rows * columns, channels * self.tubelet * patch * patch
        )
        tokens: Tensor = self.embed(flat)
        return tokens


class Encoder(nn.Module):
    """Patches, blocks, one norm for each level asked for (the last one is the output)."""

    def __init__(self, config: VJepaConfig) -> None:
        super().__init__()
        self.config, spec = config, config.encoder
        self.patches = Patches(config, config.tubelet)
        self.image_patches = Patches(config, 1) if config.image_patches else None
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.levels = config.levels or [spec.depth - 1]
        self.norms = nn.ModuleList(nn.LayerNorm(spec.dim, eps=spec.norm_eps) for _ in self.levels)
        cos, sin = self.tables(config.window)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    cos: Tensor
    sin: Tensor

    def forward(self, video: Tensor) -> Tensor:
        """Latents `[B, S*N, D]` of `video [B, C, T, H, W]`.

        Fewer frames than a tubelet are repeated. Raises `InputError` for another geometry.
        """
        return self.of_levels(video)[-1]

    def of_levels(self, video: Tensor) -> list[Tensor]:
        """The normalized outputs `[B, S*N, D]` of every level; the last are the latents."""
        if video.shape[2] < self.config.tubelet:
            video = video.repeat(1, 1, self.config.tubelet, 1, 1)
        self._check(video)
        x = self.patches(video)
        return self._blocks(x, self._tables_for(video.shape[2] // self.config.tubelet))

    def image(self, image: Tensor) -> Tensor:
        """Latents `[B, N, D]` of one frame `[B, C, 1, H, W]` through 2.1's image tokenizer."""
        if self.image_patches is None:
            raise InputError(f"{self.config.name} has no image tokenizer; V-JEPA 2.1 models do")
        self._check(image)
        return self._blocks(self.image_patches(image), self._tables_for(1))[-1]

    def _blocks(self, x: Tensor, tables: Tables) -> list[Tensor]:
        found: list[Tensor] = []
        last = self.norms[-1]
        assert isinstance(last, nn.LayerNorm)
        x = x.to(last.weight.dtype)  # fp16 graphs: only products are halved
        for number, block in enumerate(self.blocks):
            x = block(x, tables)
            if number in self.levels:
                found.append(self.norms[len(found)](x))
        return found

    def _check(self, video: Tensor) -> None:
        config = self.config
        if tuple(video.shape[-2:]) != (config.height, config.width):
            raise InputError(
                f"{config.name} is set up for {config.height}x{config.width} pixels, not for "
                f"{video.shape[-2]}x{video.shape[-1]}; positions depend on it"
            )
        if video.shape[1] != config.channels:
            raise InputError(f"{config.name} takes {config.channels} channels: [B, C, T, H, W]")

    def _tables_for(self, steps: int) -> Tables:
        if steps > self.config.window:
            cos, sin = self.tables(steps)
            return cos.to(self.cos), sin.to(self.sin)
        tokens = steps * self.config.tokens_per_step
        return self.cos[:tokens], self.sin[:tokens]

    def tables(self, steps: int) -> Tables:
        """Rotary tables of a clip of `steps` steps."""
        config = self.config
        where = grid_positions(config, steps)
        if config.rotary_grid:  # V-JEPA 2.1: rows and columns stretched to the pretrained grid
            for axis, count in ((1, config.grid[0]), (2, config.grid[1])):
                where[:, axis] *= (config.rotary_grid - 1) / max(count - 1, 1)
        return head_tables(where, config.encoder.head_dim, config.rotary)


def grid_positions(config: VJepaConfig, steps: int) -> npt.NDArray[np.float64]:
    """Step, row and column `[S*N, 3]` of each token of the model's real, maybe oblong grid."""
    rows, columns = config.grid
    return step_positions(rows, columns, 0, steps).astype(np.float64)


def pooled(latents: Tensor, per_step: int) -> Tensor:
    """One vector per step, `[B, S, D]`: the mean of its layer-normed tokens."""
    flat = torch.nn.functional.layer_norm(latents.float(), latents.shape[-1:], eps=1e-6)
    batch, tokens, dim = flat.shape
    means: Tensor = flat.view(batch, tokens // per_step, per_step, dim).mean(dim=2)
    return means
