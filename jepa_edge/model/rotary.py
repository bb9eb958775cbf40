"""Rotary position tables for tokens at (step, row, column).

The tables are constants, computed once in float64: computing angles inside the graph is what makes
V-JEPA 2 exports silently wrong (integer positions through einsum) and loses precision in fp16.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from jepa_edge.contract import ROTARY_THETA


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x [..., N, head_dim]` turned by the tables `[N, head_dim]` (or any broadcastable shape)."""
    pairs = x.view(*x.shape[:-1], x.shape[-1] // 2, 2)
    even, odd = pairs.unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return x * cos.to(x.dtype) + turned * sin.to(x.dtype)
