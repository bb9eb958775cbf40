"""The JEPA: encoder, pooled latent for control, predictor of the future, action predictor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import WrongUseError
from jepa_edge.model.blocks import init_weights
from jepa_edge.model.config import ModelConfig
from jepa_edge.model.encoder import Encoder
from jepa_edge.model.predictor import (
    ActionPredictor,
    MlpPredictor,
    TransformerPredictor,
    normalized,
)

POOL_BOTTLENECK = 16


class StepPool(nn.Module):
    """One latent per step from its dense latents, seen or predicted alike.

    ``grid`` keeps where things are: a few channels of each token, side by side, then one dense
    layer. ``mean`` has no weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.pool == "grid":
            self.squeeze = nn.Linear(config.encoder.dim, POOL_BOTTLENECK)
            self.proj = nn.Linear(POOL_BOTTLENECK * config.tokens_per_step, config.pooled_dim)
            self.apply(init_weights)

    def forward(self, latents: Tensor) -> Tensor:
        """`latents [B, S, N, D]` → `[B, S, P]`; the tokens of a sense left out count as zero."""
        tokens = normalized(latents)
        if self.config.pool == "mean":
            return tokens.mean(dim=2)
        squeezed = self.squeeze(tokens)
        missing = self.config.tokens_per_step - squeezed.shape[2]
        if missing == self.config.video_tokens:
            squeezed = nn.functional.pad(squeezed, (0, 0, missing, 0))
        elif missing:
            squeezed = nn.functional.pad(squeezed, (0, 0, 0, missing))
        pooled: Tensor = self.proj(squeezed.flatten(2))
        return pooled


class JEPA(nn.Module):
    """A joint-embedding predictive model of sight, sound and action."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.pool = StepPool(config)
        self.predictor: TransformerPredictor | MlpPredictor | None = None
        if config.predictor:
            kind = MlpPredictor if config.predictor.kind == "mlp" else TransformerPredictor
            self.predictor = kind(config, config.predictor)
        self.action_predictor = ActionPredictor(config) if config.action else None

    def forward(self, video: Tensor | None, audio: Tensor | None) -> tuple[Tensor, Tensor]:
        """Dense latents `[B, S, N, D]` and pooled latents `[B, S, P]` of a whole clip."""
        latents = self.encoder(video, audio)
        return latents, self.pool(latents)

    def predict(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What comes next: dense `[B, J, N, D]` (layer-normed space) and pooled `[B, J, P]`.

        All of `latents [B, S, N, D]` is context: the 80/20 split belongs to training alone.
        """
        if self.predictor is None:
            raise WrongUseError(f"{self.config.name} has no predictor")
        future = self.predictor(latents)
        return future, self.pool(future)

    def rollout(self, history: Tensor, actions: Tensor) -> Tensor:
        """`history [B, Hh, P]`, `actions [K, J, A]` → pooled latents `[K, J, P]` (B is 1 or K)."""
        if self.action_predictor is None:
            raise WrongUseError(f"{self.config.name} has no action predictor")
        rolled: Tensor = self.action_predictor(history, actions)
        return rolled

    def facts(self) -> ModelFacts:
        """What a runtime needs to know of this model."""
        config, action = self.config, self.config.action
        return ModelFacts(
            name=config.name,
            window=config.window,
            tokens_per_step=config.tokens_per_step,
            latent_dim=config.encoder.dim,
            pooled_dim=config.pooled_dim,
            horizon=config.horizon,
            attention=config.encoder.attention,
            history=action.history if action else 0,
            action_dim=action.action_dim if action else 0,
            rollout_horizon=action.horizon if action else 0,
            candidates=action.candidates if action else 0,
            parameters=sum(p.numel() for p in self.parameters()),
            grounded=list(config.grounded),
            effort=config.effort,
            caution=config.caution,
        )


def meta_model(config: ModelConfig) -> JEPA:
    """The model without memory for its weights: for counting, and for loading in place."""
    with torch.device("meta"):
        return JEPA(config)
