"""Transformer blocks: attention with rotary positions, and an MLP."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.model.config import Activation
from jepa_edge.model.rotary import Tables, turned

Cache = tuple[Tensor, Tensor]
LN_EPS = 1e-6
MASKED = -1e4
"""Added to the score of a pair that may not attend: exp gives exactly 0, and fp16 can hold it."""


def activation_module(name: Activation) -> nn.Module:
    """The activation called `name` (GELU is the exact, erf one, as in V-JEPA 2)."""
    modules: dict[Activation, type[nn.Module]] = {
        "gelu": nn.GELU,
        "relu": nn.ReLU,
        "silu": nn.SiLU,
    }
    return modules[name]()


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and an optional additive bias.

    The channels of queries and keys are in `rotary.head_order`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.peak: Tensor | None = None

    def forward(self, x: Tensor, tables: Tables, bias: Tensor | None) -> Tensor:
        """`x [B, N, D]` → `[B, N, D]`; `bias` broadcasts to `[B, heads, N, N]`."""
        q, k, v = self._qkv(x)
        return self._attend(turned(q, *tables), turned(k, *tables), v, bias)

    def step(
        self, x: Tensor, tables: Tables, bias: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """One step against the cached steps before it; returns the output, new keys and values.

        Args:
            x: `[B, N, D]`, the tokens of the new step.
            tables: of the new step, `[B, 1, N, head_dim]`.
            bias: broadcasts to `[B, heads, N, W*N]`, hides slots of the cache not filled yet.
            cache: keys (turned to their positions) and values `[B, heads, (W-1)*N, head_dim]`, in
                any order of steps; None at the first.
        """
        q, k, v = self._qkv(x)
        q, k = turned(q, *tables), turned(k, *tables)
        if cache is None:
            return self._attend(q, k, v, bias), (k, v)
        keys, values = torch.cat((cache[0], k), dim=2), torch.cat((cache[1], v), dim=2)
        return self._attend(q, keys, values, bias), (k, v)

    @torch.no_grad()
    def limit_scores(self, peak: Tensor, limit: float) -> None:
        """Shrinks the queries and keys of heads whose scores went beyond `limit`.

        Sharp attention turns the rounding of bf16 and int8 into another answer. The weights are
        scaled, not the architecture: QK-clip of Kimi K2 (arXiv:2507.20534).

        Args:
            peak: `[heads]`, the largest score of each head in the last training pass.
            limit: the largest score wanted.
        """
        shrink = torch.sqrt(limit / peak.clamp(min=limit)).to(self.qkv.weight)
        rows = shrink.repeat_interleave(self.proj.in_features // self.heads).repeat(2)
        self.qkv.weight[: len(rows)] *= rows[:, None]
        self.qkv.bias[: len(rows)] *= rows

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        mask = None if bias is None else bias.to(q.dtype)
        if self.training:
            self.peak = _largest_score(q.detach(), k.detach())
        if self.training and q.device.type == "cpu":
            # Torch's fused backward on CPUs takes 1.5 times as long a training step as this.
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
            heads = (scores if mask is None else scores + mask).softmax(-1).to(v.dtype) @ v
        else:
            heads = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(heads.transpose(1, 2).flatten(2))
        return out


def _largest_score(q: Tensor, k: Tensor) -> Tensor:
    """A bound `[heads]` on the scores of `q, k [B, heads, N, head_dim]`, from their lengths."""
    longest_q, longest_k = (torch.linalg.vector_norm(x, dim=-1).amax(dim=(0, 2)) for x in (q, k))
    bound: Tensor = longest_q * longest_k * q.shape[-1] ** -0.5
    return bound


class Mlp(nn.Module):
    """Dense, activation, dense."""

    def __init__(
        self, dim: int, ratio: float, activation: Activation, dropout: float = 0.0
    ) -> None:
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.act = activation_module(activation)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` → `[..., D]`."""
        out: Tensor = self.drop(self.fc2(self.act(self.fc1(x))))
        return out


class Block(nn.Module):
    """Attention and MLP, each with a residual; the norm before (V-JEPA 2) or after each of them."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        norm: Literal["pre", "post"] = "pre",
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pre = norm == "pre"
        self.norm1 = nn.LayerNorm(dim, eps=LN_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LN_EPS)
        self.mlp = Mlp(dim, mlp_ratio, activation, dropout)

    def forward(self, x: Tensor, tables: Tables, bias: Tensor | None) -> Tensor:
        """`x [B, N, D]` → `[B, N, D]`."""
        return self._rest(x, self.attn(self.norm1(x) if self.pre else x, tables, bias))

    def step(
        self, x: Tensor, tables: Tables, bias: Tensor | None, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """One step of a stream; see `Attention.step`."""
        attended, cache = self.attn.step(self.norm1(x) if self.pre else x, tables, bias, cache)
        return self._rest(x, attended), cache

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        if self.pre:
            x = x + attended
            out: Tensor = x + self.mlp(self.norm2(x))
        else:
            x = self.norm1(x + attended)
            out = self.norm2(x + self.mlp(x))
        return out


def init_weights(module: nn.Module) -> None:
    """Truncated normal weights, zero biases: the initialisation of V-JEPA 2."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def scale_by_depth(blocks: nn.ModuleList) -> None:
    """Divides the weights writing to the residual stream by sqrt(2 * layer), as V-JEPA 2 does."""
    for depth, block in enumerate(blocks, start=1):
        assert isinstance(block, Block)
        with torch.no_grad():
            block.attn.proj.weight.div_((2.0 * depth) ** 0.5)
            block.mlp.fc2.weight.div_((2.0 * depth) ** 0.5)
