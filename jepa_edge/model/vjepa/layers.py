"""Transformer layers whose graphs are what engines fuse: few large products, no shuffles.

Three things differ from the published code, none in what is computed:

- Weights are kept as ``[in, out]``, so that a layer is one matrix product without a transpose.
- Channels of each head are ordered even ones first. Queries and keys are permuted alike, which no
  score notices, and the turn of neighbouring pairs becomes one of two halves.
- The scale of the scores is part of the queries' weights, the sign of the turn part of the sines.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_edge.model.rotary import Tables, turned
from jepa_edge.model.vjepa.activations import activation
from jepa_edge.model.vjepa.config import TransformerConfig


class Dense(nn.Module):
    """`x @ weight + bias`, in the type of its weight."""

    def __init__(self, into: int, out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(into, out))
        self.bias = nn.Parameter(torch.empty(out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """`[..., into]` → `[..., out]`."""
        out: Tensor = x.to(self.weight.dtype) @ self.weight
        return out if self.bias is None else out + self.bias


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions; see the module's notes."""

    def __init__(self, spec: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.heads, spec.head_dim
        self.qkv = Dense(spec.dim, 3 * spec.dim, bias=spec.qkv_bias)
        self.proj = Dense(spec.dim, spec.dim)

    def forward(self, x: Tensor, tables: Tables) -> Tensor:
        """`x [B, N, D]` → `[B, N, D]`."""
        q, k, v = self.split(x)
        out: Tensor = self.proj(merged(attend(turned(q, *tables), turned(k, *tables), v)))
        return out

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (not turned yet) and values `[B, heads, N, head_dim]`."""
        shape = (*x.shape[:2], self.heads, self.head_dim)
        q, k, v = (part.view(shape).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v


def merged(heads: Tensor) -> Tensor:
    """`[B, heads, N, head_dim]` → `[B, N, D]`."""
    return heads.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention of scaled queries; `bias` is added to the scores."""
    if not torch.compiler.is_exporting():
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
    scores = q @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return scores.softmax(-1) @ v


class Mlp(nn.Module):
    """Dense, activation, dense."""

    def __init__(self, dim: int, hidden: int, act: str, out: int | None = None) -> None:
        super().__init__()
        self.fc1, self.fc2 = Dense(dim, hidden), Dense(hidden, out or dim)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` → `[..., D]`."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm attention and MLP. Norms and the residual stay in the residual's type.

    With halved products (fp16) the residual stream is still fp32: rounding it is what ruins single
    tokens of V-JEPA 2 in fp16, through the last LayerNorm.
    """

    def __init__(self, spec: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.attn = Attention(spec)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.norm_eps)
        self.mlp = Mlp(spec.dim, spec.mlp_dim, spec.activation)

    def forward(self, x: Tensor, tables: Tables) -> Tensor:
        """`x [B, N, D]` → `[B, N, D]`."""
        return self.rest(x, self.attn(self.norm1(x), tables))

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows attention."""
        x = x + attended.to(x.dtype)
        out: Tensor = x + self.mlp(self.norm2(x)).to(x.dtype)
        return out
