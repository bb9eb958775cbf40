"""Meters that tell a collapsed representation, and baselines that tell an idle predictor."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from jepa_edge.contract import CheckFailedError

PATIENCE = 3


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the latent space is used."""

    dimension_std: float
    effective_rank: float


def spread_of(latents: Tensor) -> Spread:
    """Spread of `latents [n, D]` over n samples.

    ``dimension_std`` is the mean over dimensions of the standard deviation, relative to the root
    mean square (0 when all samples are one point). ``effective_rank`` is the exponential of the
    entropy of the normalised singular values (Roy & Vetterli 2007), from 1 to D.
    """
    x = latents.float()
    centred = x - x.mean(0)
    rms = x.square().mean().sqrt().clamp_min(1e-12)
    share = torch.linalg.svdvals(centred)
    share = share / share.sum().clamp_min(1e-12)
    entropy = -(share * share.clamp_min(1e-12).log()).sum()
    return Spread(
        dimension_std=float(centred.std(0).mean() / rms), effective_rank=float(entropy.exp())
    )


class CollapseGuard:
    """Stops a run whose latents have collapsed several times in a row."""

    def __init__(self, lowest_rank: float) -> None:
        self.lowest_rank = lowest_rank
        self.strikes = 0

    def watch(self, step: int, spread: Spread) -> None:
        """Raises `CheckFailedError` at the third collapsed reading in a row."""
        collapsed = spread.effective_rank < self.lowest_rank or spread.dimension_std < 1e-3
        self.strikes = self.strikes + 1 if collapsed else 0
        if self.strikes >= PATIENCE:
            raise CheckFailedError(
                f"the latents collapsed by step {step}: effective rank "
                f"{spread.effective_rank:.2f} (needs {self.lowest_rank}), std "
                f"{spread.dimension_std:.4f} of the rms. Raise sigreg_weight, raise ema towards "
                "0.9995, or lower learning_rate; the last checkpoint is kept"
            )
