"""V-JEPA 2-AC's predictor, one step at a time with a cache: frame-causal, so this is exact."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.model.blocks import MASKED
from jepa_edge.model.rotary import head_tables, turned
from jepa_edge.model.vjepa.config import ActionPredictorConfig, VJepaConfig
from jepa_edge.model.vjepa.encoder import grid_positions
from jepa_edge.model.vjepa.layers import Attention, Block, Dense, attend, merged

Cache = tuple[Tensor, Tensor]


def normalized(latents: Tensor) -> Tensor:
    """Latents layer-normed without weights: what the predictor reads and what it predicts."""
    return functional.layer_norm(latents.float(), latents.shape[-1:])


class ActionPredictor(nn.Module):
    """Per step an action token, a state token (, one for the extrinsics), then all patches.

    A token sees the tokens of its own and of all earlier steps. Action and state tokens are turned
    by the step alone, patches by step, row and column.
    """

    def __init__(self, config: VJepaConfig, spec: ActionPredictorConfig) -> None:
        super().__init__()
        blocks, dim = spec.blocks, config.encoder.dim
        self.spec, self.window = spec, config.horizon + 1
        self.added = 3 if spec.extrinsics else 2
        self.embed = Dense(dim, blocks.dim)
        self.action = Dense(spec.action_dim, blocks.dim)
        self.state = Dense(spec.action_dim, blocks.dim)
        self.extrinsics = Dense(spec.action_dim - 1, blocks.dim) if spec.extrinsics else None
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.depth))
        self.norm = nn.LayerNorm(blocks.dim, eps=blocks.norm_eps)
        self.proj = Dense(blocks.dim, dim)
        self.per_step = self.added + config.tokens_per_step
        patches = grid_positions(config, self.window).reshape(self.window, -1, 3)
        added = np.zeros((self.window, self.added, 3))
        added[..., 0] = np.arange(self.window)[:, None]
        where = np.concatenate((added, patches), axis=1).reshape(-1, 3)
        cos, sin = head_tables(where, blocks.head_dim, config.rotary)
        shape = self.window, self.per_step, blocks.head_dim
        self.register_buffer("cos", cos.view(shape), persistent=False)
        self.register_buffer("sin", sin.view(shape), persistent=False)
        age = np.arange(self.window - 1, -1, -1, dtype=np.float32).repeat(self.per_step)
        self.register_buffer("age", torch.from_numpy(age), persistent=False)

    cos: Tensor
    sin: Tensor
    age: Tensor

    def forward(
        self, latents: Tensor, given: tuple[Tensor, ...], step: Tensor, cache: Cache
    ) -> tuple[Tensor, Cache]:
        """The latents after an action, and the next cache.

        Args:
            latents: `[K, N, D]`, layer-normed, of the step that the action starts from.
            given: action `[K, A]`, state `[K, A]` (, extrinsics `[K, A-1]`).
            step: `[1]` int64, steps done before (0 at the start, below `horizon` + 1).
            cache: turned keys, and values, `[K, L, heads, horizon*(N+2), head_dim]`, newest last.

        Returns:
            `[K, N, D]`, layer-normed, and the cache with this step in it.
        """
        encoders = (self.action, self.state, self.extrinsics)
        tokens = [enc(x)[:, None] for enc, x in zip(encoders, given, strict=False) if enc]
        x = torch.cat((*tokens, self.embed(latents)), dim=1).to(self.norm.weight.dtype)
        tables = self.cos[step][0], self.sin[step][0]
        bias = ((self.age > step.to(self.age.dtype)).to(x.dtype) * MASKED)[None]
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            past = cache[0][:, layer], cache[1][:, layer]
            attended, (k, v) = _attended(block.attn, block.norm1(x), tables, bias, past)
            x = block.rest(x, attended)
            keys.append(k)
            values.append(v)
        out = self.proj(self.norm(x[:, self.added :]))
        return normalized(out), (torch.stack(keys, 1), torch.stack(values, 1))

    def empty_cache(self, candidates: int = 1) -> Cache:
        """The cache before the first step."""
        blocks = self.spec.blocks
        shape = (
            candidates,
            blocks.depth,
            blocks.heads,
            (self.window - 1) * self.per_step,
            blocks.head_dim,
        )
        return torch.zeros(shape), torch.zeros(shape)


def _attended(
    attention: Attention, x: Tensor, tables: tuple[Tensor, Tensor], bias: Tensor, past: Cache
) -> tuple[Tensor, Cache]:
    """Attention of one step's tokens over the cache and themselves, and the cache after it."""
    q, k, v = attention.split(x)
    keys = torch.cat((past[0].to(k.dtype), turned(k, *tables)), dim=2)
    values = torch.cat((past[1].to(v.dtype), v), dim=2)
    heads = attend(turned(q, *tables), keys, values, bias.to(q.dtype))
    new = x.shape[1]
    return attention.proj(merged(heads)), (keys[:, :, new:], values[:, :, new:])
