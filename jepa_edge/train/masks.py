"""V-JEPA multi-block masks: which tokens the context encoder sees, and which it must predict."""

from __future__ import annotations

import math

import msgspec
import torch
from torch import Tensor

from jepa_edge.model.config import ModelConfig


class Mask(msgspec.Struct, frozen=True, kw_only=True):
    """Token indices into a clip, the same count for every clip of a batch."""

    seen: Tensor
    wanted: Tensor


def multiblock(config: ModelConfig, batch: int, steps: int, random: torch.Generator) -> Mask:
    """Blocks that span all of time, as V-JEPA (arXiv:2404.08471) masks.

    Half of the time 8 blocks of 15 % of the picture, else 2 of 70 %, aspect 0.75 to 1.5; sound is
    hidden in one run of steps. Returns `seen [B, K]` and `wanted [B, Q]`, int64, disjoint.
    """
    count, scale = (8, 0.15) if torch.rand((), generator=random) < 0.5 else (2, 0.7)
    hidden = torch.stack([_hidden(config, steps, count, scale, random) for _ in range(batch)])
    wanted = int(hidden.sum(1).min())
    seen = int((~hidden).sum(1).min())
    order = torch.rand(hidden.shape, generator=random)
    return Mask(
        seen=torch.where(hidden, 2.0, order).argsort(1)[:, :seen].sort(1).values,
        wanted=torch.where(hidden, order, 2.0).argsort(1)[:, :wanted].sort(1).values,
    )


def _hidden(
    config: ModelConfig, steps: int, count: int, scale: float, random: torch.Generator
) -> Tensor:
    """One clip's mask `[S*N]` bool: at least one token stays on either side."""
    rows, columns = config.grid
    video = torch.zeros(rows, columns, dtype=torch.bool)
    for _ in range(count if rows else 0):
        aspect = math.exp(_uniform(random, math.log(0.75), math.log(1.5)))
        height = min(rows, max(1, round(math.sqrt(scale * rows * columns * aspect))))
        width = min(columns, max(1, round(math.sqrt(scale * rows * columns / aspect))))
        top = int(_uniform(random, 0, rows - height + 1))
        left = int(_uniform(random, 0, columns - width + 1))
        video[top : top + height, left : left + width] = True
    if rows:
        video.view(-1)[int(_uniform(random, 0, rows * columns))] = False
    run = max(1, round(steps * scale))
    start = int(_uniform(random, 0, steps - run + 1))
    audio = torch.zeros(steps, config.audio_tokens, dtype=torch.bool)
    audio[start : start + run] = True
    return torch.cat((video.view(1, -1).expand(steps, -1), audio), dim=1).flatten()


def _uniform(random: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))
