"""Losses between predicted and target latents, and SIGReg against collapse."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from jepa_edge.train.config import Objective, TrainConfig

INFONCE_TEMPERATURE = 0.1


def prediction_loss(predicted: Tensor, target: Tensor, objective: Objective) -> Tensor:
    """Mean loss of `predicted [..., D]` against `target [..., D]`, a scalar.

    ``infonce`` (CPC, arXiv:1807.03748) tells each token's own target from the other clips' at the
    same place; it needs a batch of at least two in the first axis.
    """
    match objective:
        case "l1":
            return functional.l1_loss(predicted, target)
        case "l2":
            return functional.mse_loss(predicted, target)
        case "smooth_l1":
            return functional.smooth_l1_loss(predicted, target)
        case "cosine":
            return 1.0 - functional.cosine_similarity(predicted, target, dim=-1).mean()
        case "infonce":
            return _infonce(predicted, target)


def ground_error(told: Tensor, true: Tensor, config: TrainConfig) -> Tensor:
    """Of `told [..., G]`, in standard deviations: squared, or Huber's with twice its slope."""
    shares = torch.tensor([config.ground_shares.get(name, 1.0) for name in config.ground]).to(told)
    if config.ground_beta:
        errors = functional.huber_loss(told, true, reduction="none", delta=config.ground_beta)
        return 2 * (errors * shares).mean()
    return ((told - true).square() * shares).mean()


def _infonce(predicted: Tensor, target: Tensor) -> Tensor:
    query = functional.normalize(predicted.float().flatten(1, -2), dim=-1).transpose(0, 1)
    key = functional.normalize(target.float().flatten(1, -2), dim=-1).transpose(0, 1)
    scores = query @ key.transpose(1, 2) / INFONCE_TEMPERATURE
    own = torch.arange(scores.shape[1], device=scores.device).expand(scores.shape[0], -1)
    loss: Tensor = functional.cross_entropy(scores.flatten(0, 1), own.flatten())
    return loss


def sigreg(latents: Tensor, random: torch.Generator, *, slices: int = 256) -> Tensor:
    """How far `latents [n, D]` are from a standard normal, a scalar; near 0 for a normal sample.

    The Epps-Pulley statistic of random 1-D projections (LeJEPA, arXiv:2511.08544): the squared
    distance of their characteristic functions at 17 points, weighted by a Gaussian, times n.
    """
    points = torch.linspace(0, 3, 17, device=latents.device)
    step = float(points[1])
    normal = torch.exp(-points.square() / 2)
    weights = normal * step * 2
    weights[0], weights[-1] = weights[0] / 2, weights[-1] / 2
    directions = torch.randn(latents.shape[1], slices, generator=random).to(latents.device)
    directions = directions / directions.norm(dim=0)
    angles = (latents.float() @ directions)[..., None] * points
    distance = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    statistic: Tensor = (distance @ weights).mean() * latents.shape[0]
    return statistic
