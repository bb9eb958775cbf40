"""Rotary position tables for tokens at (step, row, column).

The tables are constants, computed once in float64: computing angles inside the graph is what makes
V-JEPA 2 exports silently wrong (integer positions through einsum) and loses precision in fp16.

A head's channels are kept with the even ones first, so that a turn swaps two halves: swapping the
channels of each pair is a strided copy, which took OpenVINO's CPU plugin a tenth of a whole ViT-S.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jepa_edge.contract import ROTARY_THETA

Tables = tuple[Tensor, Tensor]
"""Cosines and sines of every token's channels."""


def axis_width(head_dim: int) -> int:
    """Channels of one head that each of the three axes rotates (V-JEPA 2: 20 of 64, 26 of 80)."""
    return 2 * ((head_dim // 3) // 2)


@lru_cache(maxsize=64)
def step_positions(rows: int, columns: int, mel_rows: int, steps: int) -> npt.NDArray[np.int64]:
    """Positions `[S*N, 3]` (step, row, column) in token order: per step, video then audio.

    An audio token sits at (step, mel patch, 0); the modality embedding tells it from a video token.
    """
    video = [(y, x) for y in range(rows) for x in range(columns)]
    audio = [(m, 0) for m in range(mel_rows)]
    return np.array([(t, y, x) for t in range(steps) for y, x in video + audio], dtype=np.int64)


def rotary_tables(
    positions: npt.NDArray[Any], head_dim: int, layout: Literal["interleaved", "tiled"]
) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[N, head_dim]` float32 for `positions [N, 3]`; channels not rotated: 1, 0.

    Source: RoFormer (arXiv:2104.09864) per axis as in V-JEPA 2 (arXiv:2506.09985). ``tiled`` gives
    the two channels of a pair different angles, as V-JEPA 2.0's checkpoints were trained.
    """
    width = axis_width(head_dim)
    rates = ROTARY_THETA ** -(np.arange(width // 2, dtype=np.float64) / (width / 2))
    angles = []
    for axis in range(3):
        angle = positions[:, axis : axis + 1].astype(np.float64) * rates
        angles.append(np.repeat(angle, 2, 1) if layout == "interleaved" else np.tile(angle, (1, 2)))
    angles.append(np.zeros((len(positions), head_dim - 3 * width)))
    whole = np.concatenate(angles, axis=1)
    return torch.from_numpy(np.cos(whole)).float(), torch.from_numpy(np.sin(whole)).float()


def head_order(head_dim: int) -> npt.NDArray[np.int64]:
    """Where each channel of a head comes from: even ones first, a last odd one stays."""
    even = 2 * (head_dim // 2)
    return np.concatenate([np.arange(0, even, 2), np.arange(1, even, 2), np.arange(even, head_dim)])


def head_tables(
    positions: npt.NDArray[Any], head_dim: int, layout: Literal["interleaved", "tiled"]
) -> Tables:
    """Cosines and signed sines `[N, head_dim]` in the order of `head_order`.

    Args:
        positions: `[N, 3]`, step, row and column of each token; fractions are allowed (2.1).
        head_dim: channels of a head.
        layout: see `rotary_tables`.
    """
    order = head_order(head_dim)
    if axis_width(head_dim) == 0:
        still = np.zeros((len(positions), head_dim), np.float32)
        return torch.from_numpy(still + 1), torch.from_numpy(still)
    cos, sin = (table.numpy()[:, order] for table in rotary_tables(positions, head_dim, layout))
    sign = np.where(order % 2 == 0, -1, 1).astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(cos)), torch.from_numpy(sin * sign)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [..., N, head_dim]`, even channels first, turned by tables of `head_tables`."""
    width = 2 * (x.shape[-1] // 2)
    first, second = x[..., : width // 2], x[..., width // 2 : width]
    rest = (x[..., width:],) if width < x.shape[-1] else ()
    return x * cos.to(x.dtype) + torch.cat((second, first, *rest), dim=-1) * sin.to(x.dtype)
