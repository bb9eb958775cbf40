"""Predictors: from the latents of what was seen to the latents of what comes next."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.contract import WrongUseError
from jepa_edge.model.blocks import (
    LN_EPS,
    MASKED,
    Block,
    activation_module,
    init_weights,
    scale_by_depth,
)
from jepa_edge.model.config import ModelConfig, PredictorConfig
from jepa_edge.model.rotary import head_tables, step_positions


def normalized(latents: Tensor) -> Tensor:
    """Latents layer-normed without scale or shift: the space that predictions live in (V-JEPA)."""
    return functional.layer_norm(latents, latents.shape[-1:], eps=LN_EPS)


class TransformerPredictor(nn.Module):
    """Mask tokens at the wanted positions attend to the seen latents (V-JEPA 2's predictor)."""

    def __init__(self, config: ModelConfig, spec: PredictorConfig) -> None:
        super().__init__()
        self.config = config
        self.horizon = spec.horizon
        self.embed = nn.Linear(config.encoder.dim, spec.dim)
        self.mask_token = nn.Parameter(torch.zeros(spec.dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if config.video_tokens and config.audio_tokens:
            self.modality = nn.Parameter(0.02 * torch.randn(2, spec.dim))
        self.blocks = nn.ModuleList(
            Block(
                spec.dim,
                spec.heads,
                mlp_ratio=spec.mlp_ratio,
                activation=spec.activation,
                dropout=spec.dropout,
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=LN_EPS)
        self.proj = nn.Linear(spec.dim, config.encoder.dim)
        self.apply(init_weights)
        scale_by_depth(self.blocks)
        positions = step_positions(*config.grid, config.audio_tokens, config.training_steps)
        tables = head_tables(positions, spec.dim // spec.heads, config.encoder.rotary)
        self.register_buffer("cos", tables[0], persistent=False)
        self.register_buffer("sin", tables[1], persistent=False)
        hears = np.arange(len(positions)) % config.tokens_per_step >= config.video_tokens
        self.register_buffer("hears", torch.from_numpy(hears.astype(np.int64)), persistent=False)

    cos: Tensor
    sin: Tensor
    hears: Tensor

    def forward(self, latents: Tensor) -> Tensor:
        """`latents [B, S, N, D]` → the next `horizon` steps, `[B, J, N, D]`."""
        batch, steps, per_step, dim = latents.shape
        seen, wanted = steps * per_step, self.horizon * per_step
        tables = self.cos[: seen + wanted], self.sin[: seen + wanted]
        mask = self._mask_tokens(self.hears[seen : seen + wanted])[None].expand(batch, -1, -1)
        future = self._predict(latents.flatten(1, 2), mask, tables)
        return future.view(batch, self.horizon, per_step, dim)

    def masked(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """Latents at any positions of a clip, from those at others.

        Args:
            context: `[B, K, D]`, the latents at `seen`.
            seen: `[B, K]` token indices into the clip (step-major).
            wanted: `[B, Q]` token indices.

        Returns:
            `[B, Q, D]`.
        """
        where = torch.cat((seen, wanted), dim=1)
        tables = self.cos[where][:, None], self.sin[where][:, None]
        return self._predict(context, self._mask_tokens(self.hears[wanted]), tables)

    def _mask_tokens(self, hears: Tensor) -> Tensor:
        if hasattr(self, "modality"):
            return self.mask_token + self.modality[hears]
        return self.mask_token.expand(*hears.shape, -1)

    def _predict(self, context: Tensor, mask: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        embedded = self.embed(normalized(context))
        x = torch.cat((embedded, mask.to(embedded.dtype)), dim=1)
        for block in self.blocks:
            x = block(x, tables, None)
        future: Tensor = self.proj(self.norm(x[:, context.shape[1] :]))
        return future


class MlpPredictor(nn.Module):
    """Dense → activation → dense → norm and dropout, stacked, over each place's past steps."""

    def __init__(self, config: ModelConfig, spec: PredictorConfig) -> None:
        super().__init__()
        self.config, self.horizon = config, spec.horizon
        dim, past = config.encoder.dim, config.window
        hidden = int(spec.dim * spec.mlp_ratio)
        self.embed = nn.Linear(past * dim, spec.dim)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(spec.dim, hidden),
                activation_module(spec.activation),
                nn.Linear(hidden, spec.dim),
                nn.LayerNorm(spec.dim, eps=LN_EPS),
                nn.Dropout(spec.dropout),
            )
            for _ in range(spec.depth)
        )
        self.proj = nn.Linear(spec.dim, spec.horizon * dim)
        self.apply(init_weights)

    def forward(self, latents: Tensor) -> Tensor:
        """`latents [B, W, N, D]` of exactly `window` steps → `[B, J, N, D]`."""
        batch, steps, per_step, dim = latents.shape
        if steps != self.config.window:
            raise WrongUseError(
                f"an mlp predictor reads {self.config.window} steps, not {steps}; "
                "use kind='transformer' for other lengths or masks"
            )
        past = normalized(latents).transpose(1, 2).flatten(2)
        x = self.embed(past)
        for layer in self.layers:
            x = x + layer(x)
        future: Tensor = self.proj(x).view(batch, per_step, self.horizon, dim).transpose(1, 2)
        return future


class ActionPredictor(nn.Module):
    """Pooled latents and a sequence of actions → the pooled latent after each action.

    One causal pass over [history | actions]: the output at action j has seen actions 1..j, so a
    whole candidate is rolled out without feeding predictions back. One engine call then scores
    every candidate, and no weight is shared between unrolled steps, which quantizers cannot take.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        spec = config.action
        assert spec is not None
        self.spec = spec
        self.latent = nn.Linear(config.pooled_dim, spec.dim)
        self.action = nn.Linear(spec.action_dim, spec.dim)
        self.blocks = nn.ModuleList(
            Block(spec.dim, spec.heads, activation=spec.activation) for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.dim, eps=LN_EPS)
        self.proj = nn.Linear(spec.dim, config.pooled_dim)
        self.apply(init_weights)
        scale_by_depth(self.blocks)
        length = spec.history + spec.horizon
        positions = step_positions(1, 1, 0, length)
        cos, sin = head_tables(positions, spec.dim // spec.heads, "interleaved")
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        later = np.arange(length) - spec.history > np.arange(spec.horizon)[:, None]
        bias = np.where(later, MASKED, 0.0).astype(np.float32)
        self.register_buffer("bias", torch.from_numpy(bias), persistent=False)

    cos: Tensor
    sin: Tensor
    bias: Tensor

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """`history [B, Hh, P]` (oldest first), `actions [K, J, A]` → `[K, J, P]`; B is 1 or K.

        What was seen does not look at what is planned, so that candidates share its keys and
        values.
        """
        past, (count, ahead) = history.shape[1], actions.shape[:2]
        seen, x = self.latent(history), self.action(actions)
        until = past + ahead
        before = self.cos[:past], self.sin[:past]
        after = self.cos[past:until], self.sin[past:until]
        for block in self.blocks:
            assert isinstance(block, Block)
            seen, (keys, values) = block.step(seen, before, None, None)
            cache = keys.expand(count, -1, -1, -1), values.expand(count, -1, -1, -1)
            x, _ = block.step(x, after, self.bias[:ahead, : past + ahead], cache)
        change: Tensor = self.proj(self.norm(x))
        return history[:, -1:] + change
