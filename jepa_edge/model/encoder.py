"""The encoder: frames and sound in, dense latents out, for a clip or step by step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from jepa_edge.contract import InputError
from jepa_edge.model.blocks import LN_EPS, MASKED, Block, Cache, init_weights, scale_by_depth
from jepa_edge.model.config import ModelConfig
from jepa_edge.model.rotary import Tables, axis_width, head_tables, step_positions
from jepa_edge.model.tokens import Tokens


class Encoder(nn.Module):
    """A (V-)JEPA encoder; causal ones look back at most `window` steps, and stream exactly."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        spec = config.encoder
        self.tokens = Tokens(config)
        self.blocks = nn.ModuleList(
            Block(
                spec.dim,
                spec.heads,
                mlp_ratio=spec.mlp_ratio,
                norm=spec.norm,
                activation=spec.activation,
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=LN_EPS)
        self.apply(init_weights)
        self.tokens.begin_stem()
        scale_by_depth(self.blocks)
        cos, sin = self._tables(config.training_steps, *self._senses())
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        slot = np.arange(config.window - 1, dtype=np.float32).repeat(config.tokens_per_step)
        self.register_buffer("slot", torch.from_numpy(slot), persistent=False)
        bias = self._clip_bias(config.training_steps, config.tokens_per_step)
        self.register_buffer("bias", bias, persistent=False)

    cos: Tensor
    sin: Tensor
    slot: Tensor
    bias: Tensor | None

    def forward(self, video: Tensor | None, audio: Tensor | None) -> Tensor:
        """Latents `[B, S, N, D]` of a clip of any length; see `Tokens.forward` for the inputs."""
        x = self.tokens(video, audio)
        batch, steps, per_step, _ = x.shape
        if self.config.window == 1 and steps > 1:
            return self._each_step(x, video is not None, audio is not None)
        tables = self._clip_tables(steps, per_step, video is not None, audio is not None)
        bias = self._bias(steps, per_step)
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x, tables, bias)
        latents: Tensor = self.norm(x).view(batch, steps, per_step, -1)
        return latents

    def _each_step(self, tokens: Tensor, sees: bool, hears: bool) -> Tensor:
        """Latents of steps that each are encoded alone: what a window of one step means."""
        batch, steps, per_step, _ = tokens.shape
        x = tokens.flatten(0, 1)
        tables = self._clip_tables(1, per_step, sees, hears)
        for block in self.blocks:
            x = block(x, tables, None)
        latents: Tensor = self.norm(x).view(batch, steps, per_step, -1)
        return latents

    def masked(self, video: Tensor | None, audio: Tensor | None, keep: Tensor) -> Tensor:
        """Latents `[B, K, D]` of the tokens `keep [B, K]` alone; the others are never computed."""
        x = self.tokens(video, audio).flatten(1, 2)
        x = torch.take_along_dim(x, keep[..., None], dim=1)
        tables = self.cos[keep][:, None], self.sin[keep][:, None]
        bias = None
        if self.bias is not None:
            bias = self.bias[keep[:, :, None], keep[:, None, :]][:, None]
        for block in self.blocks:
            x = block(x, tables, bias)
        latents: Tensor = self.norm(x)
        return latents

    def step(
        self,
        video: Tensor | None,
        audio: Tensor | None,
        cache: Sequence[Cache],
        filled: Tensor,
        turn: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One step of a stream, equal to the same step of the whole history in one clip.

        Args:
            video: `[B, 3, 2, H, W]` or None.
            audio: `[B, 1, M, t]` or None.
            cache: of each layer, keys and values `[B, heads, (W-1)*N, head_dim]` of the steps
                before, in slots that fill from the first on; see `jepa_edge.runtimes.ring`.
            filled: `[B]` float, how many slots hold a step.
            turn: `[B, 2, width]`, cosines and sines of this step on the time axis.

        Returns:
            Latents `[B, 1, N, D]`, and the step's own keys and values `[B, L, heads, N, head_dim]`.
        """
        x = self.tokens(video, audio)
        per_step = x.shape[2]
        if per_step != self.config.tokens_per_step:
            raise InputError("a stream needs every sense of the model; feed silence for lost sound")
        tables = self._step_tables(turn)
        empty = (self.slot[None] >= filled[:, None]).to(x.dtype)
        bias = nn.functional.pad(empty * MASKED, (0, per_step))[:, None, None]
        x = x.flatten(1, 2)
        keys, values = [], []
        for block, before in zip(self.blocks, cache, strict=True):
            assert isinstance(block, Block)
            x, (k, v) = block.step(x, tables, bias, before)
            keys.append(k)
            values.append(v)
        latents: Tensor = self.norm(x)[:, None]
        return latents, (torch.stack(keys, 1), torch.stack(values, 1))

    def _step_tables(self, turn: Tensor) -> Tables:
        """`[B, 1, N, head_dim]` each: `turn [B, 2, width]`, and the places of the first step."""
        per_step, head_dim = self.config.tokens_per_step, self.cos.shape[1]
        pairs, half = axis_width(head_dim) // 2, head_dim // 2
        cos, sin = turn[:, :, None, ::2].expand(-1, -1, per_step, -1).unbind(1)
        found = []
        for even, odd, table in ((cos, cos, self.cos), (-sin, sin, self.sin)):
            places = table[:per_step].expand(turn.shape[0], -1, -1)
            parts = even, places[..., pairs:half], odd, places[..., half + pairs :]
            found.append(torch.cat(parts, dim=2)[:, None])
        return found[0], found[1]

    def _senses(self) -> tuple[bool, bool]:
        return self.config.senses.video is not None, self.config.senses.audio is not None

    def _clip_tables(self, steps: int, per_step: int, sees: bool, hears: bool) -> Tables:
        """The buffered tables where they reach (constants of a graph), else computed ones."""
        if (sees, hears) == self._senses() and steps <= self.config.training_steps:
            return self.cos[: steps * per_step], self.sin[: steps * per_step]
        cos, sin = self._tables(steps, sees, hears)
        return cos.to(self.cos), sin.to(self.sin)

    def _tables(self, steps: int, sees: bool, hears: bool) -> Tables:
        config, spec = self.config, self.config.encoder
        rows, columns = config.grid if sees else (0, 0)
        positions = step_positions(rows, columns, config.audio_tokens if hears else 0, steps)
        return head_tables(positions, spec.dim // spec.heads, spec.rotary)

    def _bias(self, steps: int, per_step: int) -> Tensor | None:
        if self.bias is None:
            return None
        tokens = steps * per_step
        if per_step == self.config.tokens_per_step and steps <= self.config.training_steps:
            return self.bias[:tokens, :tokens]
        bias = self._clip_bias(steps, per_step)
        return None if bias is None else bias.to(self.bias)

    def _clip_bias(self, steps: int, per_step: int) -> Tensor | None:
        """`[S*N, S*N]`: a step sees itself and the `window - 1` before; None if bidirectional."""
        if self.config.encoder.attention == "bidirectional":
            return None
        index = np.arange(steps).repeat(per_step)
        back = index[:, None] - index[None, :]
        allowed = (back >= 0) & (back < self.config.window)
        return torch.from_numpy(np.where(allowed, 0.0, MASKED).astype(np.float32))
