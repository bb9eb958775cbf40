"""An imported V-JEPA 2: the encoder and whichever heads its checkpoint has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import WrongUseError
from jepa_edge.model.vjepa.action import ActionPredictor, normalized
from jepa_edge.model.vjepa.config import VJepaConfig
from jepa_edge.model.vjepa.encoder import Encoder, pooled
from jepa_edge.model.vjepa.heads import Classifier, MaskedPredictor


class VJepa(nn.Module):
    """V-JEPA 2 (arXiv:2506.09985), its masked predictor and its classifier."""

    def __init__(self, config: VJepaConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.predictor = MaskedPredictor(config, config.predictor) if config.predictor else None
        self.classifier = Classifier(config, config.classifier) if config.classifier else None
        self.action = ActionPredictor(config, config.action) if config.action else None

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[B, S*N, D]` and pooled latents `[B, S, D]` of `video [B, C, T, H, W]`.

        With an action predictor the latents are layer-normed: the space that it works in.
        """
        latents = self.encoder(video)
        if self.action is not None:
            latents = normalized(latents)
        return latents, pooled(latents, self.config.tokens_per_step)

    @property
    def anticipates(self) -> bool:
        """Whether the masked predictor reads and predicts the latents that the encoder gives."""
        spec = self.config.predictor
        return spec is not None and spec.levels == 1 and spec.out_dim == self.config.encoder.dim

    def pooled(self, latents: Tensor) -> Tensor:
        """One vector per step, `[B, S, D]`."""
        return pooled(latents, self.config.tokens_per_step)

    def predict_masked(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """See `MaskedPredictor.forward`. Raises `WrongUseError` without a predictor."""
        if self.predictor is None:
            raise WrongUseError(f"{self.config.name} has no masked predictor")
        out: Tensor = self.predictor(context, seen, wanted)
        return out

    def predict(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """What comes `horizon` steps after the clip: `[B, J*N, D]` and pooled `[B, J, D]`.

        All of `latents [B, S*N, D]` is context, mask tokens stand at the steps to come: how
        V-JEPA 2 anticipates (arXiv:2506.09985, section 6).
        """
        seen, wanted = self.ahead(latents.device)
        future = self.predict_masked(latents, seen, wanted)
        return future, pooled(future, self.config.tokens_per_step)

    def ahead(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Token numbers `[1, S*N]` of the clip, and `[1, J*N]` of the steps after it."""
        config = self.config
        known = config.window * config.tokens_per_step
        end = known + config.horizon * config.tokens_per_step
        numbers = torch.arange(end, device=device)[None]
        return numbers[:, :known], numbers[:, known:]

    def classify(self, latents: Tensor) -> Tensor:
        """Logits `[B, classes]`. Raises `WrongUseError` without a classification head."""
        if self.classifier is None:
            raise WrongUseError(f"{self.config.name} has no classification head")
        logits: Tensor = self.classifier(latents)
        return logits

    def facts(self) -> ModelFacts:
        """What a runtime needs to know of this model."""
        config = self.config
        return ModelFacts(
            name=config.name,
            window=config.window,
            tokens_per_step=config.tokens_per_step,
            latent_dim=config.encoder.dim,
            pooled_dim=config.encoder.dim,
            horizon=config.horizon if self.anticipates else 0,
            attention="bidirectional",
            parameters=sum(p.numel() for p in self.parameters()),
        )
