"""What reads the encoder's latents: the masked predictor and the classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.model.rotary import head_tables
from jepa_edge.model.vjepa.activations import activation
from jepa_edge.model.vjepa.config import (
    ClassifierConfig,
    MaskedPredictorConfig,
    TransformerConfig,
    VJepaConfig,
)
from jepa_edge.model.vjepa.encoder import grid_positions
from jepa_edge.model.vjepa.layers import Attention, Block, Dense, Mlp, attend, merged


class MaskedPredictor(nn.Module):
    """Mask tokens at wanted positions, among embedded context tokens, become predictions.

    Attention does not care for the order of tokens, their positions travel as rotary tables: the
    sorting and unsorting of the published code is left out.
    """

    def __init__(self, config: VJepaConfig, spec: MaskedPredictorConfig) -> None:
        super().__init__()
        self.spec, blocks = spec, spec.blocks
        dim = config.encoder.dim
        self.embed: nn.Module
        if spec.levels == 1:
            self.embed = Dense(dim, blocks.dim)
        else:
            self.embed = DeepEmbed(spec.levels * dim, dim, blocks)
        self.mask_tokens = nn.Parameter(torch.empty(spec.mask_tokens, blocks.dim))
        self.blocks = nn.ModuleList(Block(blocks) for _ in range(blocks.depth))
        self.norm = nn.LayerNorm(blocks.dim, eps=blocks.norm_eps)
        self.proj = Dense(blocks.dim, spec.out_dim)
        self.context_proj = Dense(blocks.dim, spec.out_dim) if spec.context_head else None
        positions = grid_positions(config, config.window + config.horizon)
        cos, sin = head_tables(positions, blocks.head_dim, config.rotary)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    cos: Tensor
    sin: Tensor

    def forward(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """Predictions `[B, Q, out_dim]`.

        Args:
            context: `[B, K, levels * D]`, encoder latents of the tokens at `seen`.
            seen: `[B, K]` int64, token numbers in the clip (step by step, row by row).
            wanted: `[B, Q]` int64; tokens up to `horizon` steps after the clip may be asked for.
        """
        x = self._mixed(context, seen, wanted)
        out: Tensor = self.proj(self.norm(x[:, context.shape[1] :]))
        return out

    def _mixed(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        embedded = self.embed(context).to(self.norm.weight.dtype)
        mask = self.mask_tokens[self.spec.mask_index % self.spec.mask_tokens]
        masks = mask.to(embedded.dtype).expand(*wanted.shape, -1)
        x = torch.cat((embedded, masks), dim=1)
        where = torch.cat((seen, wanted), dim=1)
        tables = self.cos[where][:, None], self.sin[where][:, None]
        for block in self.blocks:
            x = block(x, tables)
        return x


class DeepEmbed(nn.Module):
    """Several encoder levels → the predictor's width (V-JEPA 2.1)."""

    def __init__(self, into: int, hidden: int, blocks: TransformerConfig) -> None:
        super().__init__()
        self.first, self.second = Dense(into, hidden), Dense(hidden, blocks.dim)
        self.act = activation(blocks.activation)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., levels * D]` → `[..., width]`."""
        out: Tensor = self.second(self.act(self.first(x)))
        return out


class Classifier(nn.Module):
    """The attentive pooler: self-attention layers, one query that reads all tokens, a linear."""

    def __init__(self, config: VJepaConfig, spec: ClassifierConfig) -> None:
        super().__init__()
        blocks = TransformerConfig(
            dim=config.encoder.dim,
            depth=spec.layers,
            heads=config.encoder.heads,
            mlp_dim=spec.mlp_dim,
            activation=config.encoder.activation,
            norm_eps=config.encoder.norm_eps,
        )
        self.query = nn.Parameter(torch.empty(blocks.dim))
        self.blocks = nn.ModuleList(_PlainBlock(blocks) for _ in range(spec.layers))
        self.norm1 = nn.LayerNorm(blocks.dim, eps=blocks.norm_eps)
        self.cross = _CrossAttention(blocks)
        self.norm2 = nn.LayerNorm(blocks.dim, eps=blocks.norm_eps)
        self.mlp = Mlp(blocks.dim, spec.mlp_dim, blocks.activation)
        self.linear = Dense(blocks.dim, len(spec.labels))

    def forward(self, latents: Tensor) -> Tensor:
        """`latents [B, N, D]` → logits `[B, classes]`."""
        x = latents.to(self.norm1.weight.dtype)
        for block in self.blocks:
            x = block(x)
        query = self.query.to(x.dtype).expand(x.shape[0], 1, -1)
        y = query + self.cross(self.norm1(x)).to(x.dtype)
        y = y + self.mlp(self.norm2(y)).to(x.dtype)
        logits: Tensor = self.linear(y[:, 0])
        return logits


class _PlainAttention(Attention):
    """Self-attention without positions."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        q, k, v = self.split(x)
        out: Tensor = self.proj(merged(attend(q, k, v)))
        return out


class _PlainBlock(Block):
    """A block without positions."""

    def __init__(self, spec: TransformerConfig) -> None:
        super().__init__(spec)
        self.attn = _PlainAttention(spec)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self.rest(x, self.attn(self.norm1(x)))


class _CrossAttention(nn.Module):
    """One query over all tokens. It never changes, so only its projection `asked` is kept."""

    def __init__(self, spec: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = spec.heads, spec.head_dim
        self.asked = nn.Parameter(torch.empty(spec.dim))
        self.kv = Dense(spec.dim, 2 * spec.dim)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        k, v = self.kv(tokens).view(batch, count, 2, self.heads, self.head_dim).unbind(2)
        q = self.asked.to(k.dtype).view(1, self.heads, 1, self.head_dim).expand(batch, -1, -1, -1)
        return merged(attend(q, k.transpose(1, 2), v.transpose(1, 2)))
