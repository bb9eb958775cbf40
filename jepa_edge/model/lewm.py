"""LeWM: one latent per frame, and a small predictor that rolls actions out (arXiv:2603.19312).

A vision transformer's class token is the latent; the predictor is a causal transformer over the
last few latents, each modulated by its action (AdaLN-zero). A step of a bundle is two frames, of
which the model sees the later one.
"""

from __future__ import annotations

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import FRAMES_PER_STEP, InputError, Senses, TensorSpec, VideoSpec
from jepa_edge.model.blocks import MASKED
from jepa_edge.model.graph_source import GraphSource
from jepa_edge.model.vjepa.layers import Dense, Mlp, attend, merged

AFFINE_EPS, PLAIN_EPS = 1e-5, 1e-6


class LeWmConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A LeWM checkpoint; sizes are read from its tensors, heads from their usual width of 64."""

    name: str
    dim: int
    depth: int
    heads: int
    mlp_dim: int
    patch: int
    pixels: int
    latent_dim: int
    projector_dim: int
    predictor_dim: int
    predictor_depth: int
    predictor_heads: int
    predictor_head_dim: int
    predictor_mlp_dim: int
    history: int
    action_dim: int
    smoothed_dim: int
    action_hidden: int
    norm_eps: float = 1e-12
    fps: float = 4.0
    horizon: int = 5
    candidates: int = 64
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def window(self) -> int:
        """Steps the encoder sees at once."""
        return 1

    @property
    def senses(self) -> Senses:
        """What a runtime must capture for this model."""
        video = VideoSpec(
            fps=self.fps, height=self.pixels, width=self.pixels, mean=self.mean, std=self.std
        )
        return Senses(video=video, audio=None, steps_per_second=self.fps / FRAMES_PER_STEP)


class FrameEncoder(nn.Module):
    """A vision transformer with a class token, and the projector of its latent."""

    def __init__(self, config: LeWmConfig) -> None:
        super().__init__()
        self.config = config
        count = (config.pixels // config.patch) ** 2
        self.patches = Dense(3 * config.patch**2, config.dim)
        self.cls = nn.Parameter(torch.empty(config.dim))
        self.positions = nn.Parameter(torch.empty(count + 1, config.dim))
        self.blocks = nn.ModuleList(_VitBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.projector = Mlp(config.dim, config.projector_dim, "gelu", config.latent_dim)

    def forward(self, frames: Tensor) -> Tensor:
        """`[B, 3, H, W]` → `[B, P]`. Raises `InputError` for another size."""
        batch, _, height, width = frames.shape
        patch, pixels = self.config.patch, self.config.pixels
        if (height, width) != (pixels, pixels):
            raise InputError(f"{self.config.name} sees {pixels}x{pixels} pixels")
        side = pixels // patch
        split = frames[..., : side * patch, : side * patch]
        split = split.reshape(batch, 3, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        tokens = self.patches(split.reshape(batch, side * side, 3 * patch * patch))
        first = self.cls.to(tokens.dtype).expand(batch, 1, -1)
        x = torch.cat((first, tokens), dim=1) + self.positions.to(tokens.dtype)
        for block in self.blocks[:-1]:
            x = block(x, x)
        latent: Tensor = self.projector(self.norm(self.blocks[-1](x[:, :1], x))[:, 0])
        return latent


class _VitBlock(nn.Module):
    """A pre-norm block; `asking` may be a part of the tokens: the last layer needs only one."""

    def __init__(self, config: LeWmConfig) -> None:
        super().__init__()
        self.heads, dim = config.heads, config.dim
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.q, self.kv = Dense(dim, dim), Dense(dim, 2 * dim)
        self.proj = Dense(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = Mlp(dim, config.mlp_dim, "gelu")

    def forward(self, asking: Tensor, x: Tensor) -> Tensor:
        """`[B, n, D]` of the tokens `asking`, which read all of `x [B, N, D]`."""
        width = asking.shape[-1] // self.heads
        parts = self.q(self.norm1(asking)), *self.kv(self.norm1(x)).chunk(2, dim=-1)
        q, k, v = (p.view(*p.shape[:2], self.heads, width).transpose(1, 2) for p in parts)
        asking = asking + self.proj(merged(attend(q, k, v)))
        out: Tensor = asking + self.mlp(self.norm2(asking))
        return out


class ConditionedBlock(nn.Module):
    """Causal attention and MLP, shifted, scaled and gated by the action (AdaLN-zero)."""

    def __init__(self, config: LeWmConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.predictor_heads, config.predictor_head_dim
        dim, inner = config.predictor_dim, self.heads * self.head_dim
        self.modulation = Dense(dim, 6 * dim)
        self.attn_norm = nn.LayerNorm(dim, eps=AFFINE_EPS)
        self.qkv, self.proj = Dense(dim, 3 * inner, bias=False), Dense(inner, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=AFFINE_EPS)
        self.mlp = Mlp(dim, config.predictor_mlp_dim, "gelu")

    def forward(self, x: Tensor, action: Tensor, bias: Tensor) -> Tensor:
        """`x`, `action` `[K, T, D]`; `bias [T, T]` hides the future."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(
            functional.silu(action)
        ).chunk(6, dim=-1)
        y = self.attn_norm(_plain_norm(x) * (1 + scale1) + shift1)
        shape = (*y.shape[:2], self.heads, self.head_dim)
        q, k, v = (p.view(shape).transpose(1, 2) for p in self.qkv(y).chunk(3, dim=-1))
        x = x + gate1 * self.proj(merged(attend(q, k, v, bias.to(q.dtype))))
        y = self.mlp_norm(_plain_norm(x) * (1 + scale2) + shift2)
        out: Tensor = x + gate2 * self.mlp(y)
        return out


def _plain_norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], eps=PLAIN_EPS)


class LeWm(nn.Module):
    """The world model: frames to latents, latents and actions to the latents that follow."""

    def __init__(self, config: LeWmConfig) -> None:
        super().__init__()
        self.config = config
        latent, width = config.latent_dim, config.predictor_dim
        self.encoder = FrameEncoder(config)
        self.smooth = Dense(config.action_dim, config.smoothed_dim)
        self.action = Mlp(config.smoothed_dim, config.action_hidden, "silu", latent)
        self.positions = nn.Parameter(torch.empty(config.history, latent))
        same = latent == width
        self.into = nn.Identity() if same else Dense(latent, width)
        self.action_into = nn.Identity() if same else Dense(latent, width)
        self.out = nn.Identity() if same else Dense(width, latent)
        self.blocks = nn.ModuleList(ConditionedBlock(config) for _ in range(config.predictor_depth))
        self.norm = nn.LayerNorm(width, eps=AFFINE_EPS)
        self.pred_proj = Mlp(latent, config.projector_dim, "gelu")
        future = np.triu(np.full((config.history, config.history), MASKED, np.float32), 1)
        self.register_buffer("bias", torch.from_numpy(future), persistent=False)

    bias: Tensor

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """What follows each of `latents [K, T, P]` after its `actions [K, T, A]` (T ≤ history)."""
        return self._predict(latents, self.action(self.smooth(actions)))

    def _predict(self, latents: Tensor, embedded: Tensor) -> Tensor:
        steps = latents.shape[1]
        x = self.into(latents + self.positions[:steps].to(latents.dtype))
        action = self.action_into(embedded)
        for block in self.blocks:
            x = block(x, action, self.bias[:steps, :steps])
        out: Tensor = self.pred_proj(self.out(self.norm(x)))
        return out

    def rollout(self, history: Tensor, actions: Tensor) -> Tensor:
        """`history [1, 1, P]`, `actions [K, J, A]` → `[K, J, P]`, each prediction fed back."""
        embedded = self.action(self.smooth(actions))
        known = history.to(embedded.dtype).expand(actions.shape[0], -1, -1)
        for step in range(actions.shape[1]):
            first = max(0, step + 1 - self.config.history)
            after = self._predict(known[:, first:], embedded[:, first : step + 1])
            known = torch.cat((known, after[:, -1:]), dim=1)
        return known[:, 1:]

    def facts(self) -> ModelFacts:
        """What a runtime needs to know of this model."""
        config = self.config
        return ModelFacts(
            name=config.name,
            window=1,
            tokens_per_step=1,
            latent_dim=config.latent_dim,
            pooled_dim=config.latent_dim,
            horizon=0,
            attention="bidirectional",
            history=1,
            action_dim=config.action_dim,
            rollout_horizon=config.horizon,
            candidates=config.candidates,
            parameters=sum(p.numel() for p in self.parameters()),
        )


class EncoderGraph(nn.Module):
    """video `[1, 3, 2, H, W]` → latents `[1, 1, P]`, pooled `[1, 1, P]` of the later frame."""

    def __init__(self, model: LeWm) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """One step; the latent is both."""
        latent = self.model.encoder(video[:, :, -1])[:, None]
        return latent, latent.clone()


class RolloutGraph(nn.Module):
    """history `[1, 1, P]`, actions `[K, J, A]` → rollout `[K, J, P]`."""

    def __init__(self, model: LeWm) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """Every candidate's predicted latents."""
        return self.model.rollout(history, actions)


def lewm_graphs(model: LeWm) -> list[GraphSource]:
    """The encoder of one step, and the rollout of candidate actions."""
    config = model.config
    latent = (1, 1, config.latent_dim)
    frames = (1, 3, FRAMES_PER_STEP, config.pixels, config.pixels)
    actions = (config.candidates, config.horizon, config.action_dim)
    return [
        GraphSource(
            name="encoder",
            module=EncoderGraph(model),
            inputs=[TensorSpec(name="video", shape=frames)],
            outputs=[
                TensorSpec(name="latents", shape=latent),
                TensorSpec(name="pooled", shape=latent),
            ],
        ),
        GraphSource(
            name="rollout",
            module=RolloutGraph(model),
            inputs=[
                TensorSpec(name="history", shape=latent),
                TensorSpec(name="actions", shape=actions),
            ],
            outputs=[TensorSpec(name="rollout", shape=(*actions[:2], config.latent_dim))],
        ),
    ]
