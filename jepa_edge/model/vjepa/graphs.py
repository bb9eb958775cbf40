"""The graphs of an imported model: encoder, predictors, classifier, image encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.contract import FRAMES_PER_STEP, TensorSpec, WrongUseError
from jepa_edge.model.graph_source import GraphSource
from jepa_edge.model.vjepa.model import VJepa


class EncoderGraph(nn.Module):
    """video `[1, 3, T, H, W]` → latents `[1, S*N, D]`, pooled `[1, S, D]`(, levels)."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: Tensor) -> tuple[Tensor, ...]:
        """The whole clip; levels `[1, S*N, levels*D]` only if the predictor reads several."""
        if len(self.model.encoder.levels) > 1:
            levels = self.model.encoder.of_levels(video)
            pooled = self.model.pooled(levels[-1])
            return levels[-1], pooled, torch.cat(levels, dim=-1)
        latents, pooled = self.model(video)
        return latents, pooled


class ImageEncoderGraph(nn.Module):
    """image `[1, 3, 1, H, W]` → latents `[1, N, D]`, pooled `[1, 1, D]` (V-JEPA 2.1)."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """One frame."""
        latents = self.model.encoder.image(image)
        return latents, self.model.pooled(latents)


class RolloutStepGraph(nn.Module):
    """latents, action, state, step, cache_k, cache_v → next_latents, next caches."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        latents: Tensor,
        action: Tensor,
        state: Tensor,
        step: Tensor,
        cache_k: Tensor,
        cache_v: Tensor,
    ) -> tuple[Tensor, ...]:
        """See `ActionPredictor.forward`."""
        predictor = self.model.action
        assert predictor is not None
        out, after = predictor(latents, (action, state), step, (cache_k, cache_v))
        return out, *after


class PredictorGraph(nn.Module):
    """latents `[1, S*N, D]` → future `[1, J*N, D]`, future_pooled `[1, J, D]`."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The steps after the clip."""
        return self.model.predict(latents)


class MaskedPredictorGraph(nn.Module):
    """context, context_positions, target_positions → predicted; any number of each."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(self, context: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """See `MaskedPredictor.forward`."""
        return self.model.predict_masked(context, seen, wanted)


class ClassifierGraph(nn.Module):
    """latents `[1, S*N, D]` → logits `[1, classes]`."""

    def __init__(self, model: VJepa) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> Tensor:
        """What the clip shows."""
        return self.model.classify(latents)


def vjepa_graphs(model: VJepa) -> list[GraphSource]:
    """Every graph the model has.

    Raises `WrongUseError` for a model whose steps are not those of a bundle.
    """
    config = model.config
    if config.tubelet != FRAMES_PER_STEP:
        raise WrongUseError(
            f"{config.name} has tubelets of {config.tubelet} frames; a bundle's step is "
            f"{FRAMES_PER_STEP} frames, so it can be used in Python but not exported"
        )
    tokens, dim = config.window * config.tokens_per_step, config.encoder.dim
    latents = TensorSpec(name="latents", shape=(1, tokens, dim))
    frames = config.window * FRAMES_PER_STEP
    shape = (1, config.channels, frames, config.height, config.width)
    pooled = TensorSpec(name="pooled", shape=(1, config.window, dim))
    graphs = [
        GraphSource(
            name="encoder",
            module=EncoderGraph(model),
            float_norms=True,
            inputs=[TensorSpec(name="video", shape=shape)],
            outputs=[latents, pooled, *_levels(model, tokens)],
        )
    ]
    if model.predictor is not None:
        graphs += _predictors(model, latents)
    if config.image_patches:
        graphs.append(_image_encoder(model))
    if model.action is not None:
        graphs.append(_rollout_step(model))
    if model.classifier is not None:
        assert config.classifier
        logits = TensorSpec(name="logits", shape=(1, len(config.classifier.labels)))
        graphs.append(
            GraphSource(
                name="classifier",
                module=ClassifierGraph(model),
                float_norms=True,
                inputs=[latents],
                outputs=[logits],
            )
        )
    return graphs


def _predictors(model: VJepa, latents: TensorSpec) -> list[GraphSource]:
    """The same weights twice: the steps after the clip (fixed), and any positions (dynamic)."""
    config = model.config
    assert config.predictor
    ahead, dim, out = config.horizon, config.encoder.dim, config.predictor.out_dim
    width = config.predictor.levels * dim
    graphs = [
        GraphSource(
            name="predictor",
            module=PredictorGraph(model),
            float_norms=True,
            inputs=[latents],
            outputs=[
                TensorSpec(name="future", shape=(1, ahead * config.tokens_per_step, out)),
                TensorSpec(name="future_pooled", shape=(1, ahead, out)),
            ],
        ),
        GraphSource(
            name="masked_predictor",
            module=MaskedPredictorGraph(model),
            float_norms=True,
            inputs=[
                TensorSpec(name="context", shape=(1, -1, width)),
                TensorSpec(name="context_positions", shape=(1, -1), dtype="int64"),
                TensorSpec(name="target_positions", shape=(1, -1), dtype="int64"),
            ],
            outputs=[TensorSpec(name="predicted", shape=(1, -1, out))],
            dynamic={
                "context": {1: "seen"},
                "context_positions": {1: "seen"},
                "target_positions": {1: "wanted"},
            },
        ),
    ]
    return graphs if model.anticipates else graphs[1:]


def _levels(model: VJepa, tokens: int) -> list[TensorSpec]:
    width = len(model.encoder.levels) * model.config.encoder.dim
    several = len(model.encoder.levels) > 1
    return [TensorSpec(name="levels", shape=(1, tokens, width))] if several else []


def _image_encoder(model: VJepa) -> GraphSource:
    config = model.config
    dim, tokens = config.encoder.dim, config.tokens_per_step
    shape = (1, config.channels, 1, config.height, config.width)
    return GraphSource(
        name="image_encoder",
        module=ImageEncoderGraph(model),
        float_norms=True,
        inputs=[TensorSpec(name="image", shape=shape)],
        outputs=[
            TensorSpec(name="latents", shape=(1, tokens, dim)),
            TensorSpec(name="pooled", shape=(1, 1, dim)),
        ],
    )


def _rollout_step(model: VJepa) -> GraphSource:
    config, predictor = model.config, model.action
    assert predictor is not None
    spec = predictor.spec
    shape = (-1, config.tokens_per_step, config.encoder.dim)
    cache = (-1, *predictor.empty_cache()[0].shape[1:])
    inputs = [
        TensorSpec(name="latents", shape=shape),
        TensorSpec(name="action", shape=(-1, spec.action_dim)),
        TensorSpec(name="state", shape=(-1, spec.action_dim)),
        TensorSpec(name="step", shape=(1,), dtype="int64"),
    ]
    inputs += [TensorSpec(name=name, shape=cache) for name in ("cache_k", "cache_v")]
    return GraphSource(
        name="rollout_step",
        module=RolloutStepGraph(model),
        float_norms=True,
        inputs=inputs,
        outputs=[
            TensorSpec(name="next_latents", shape=shape),
            TensorSpec(name="next_cache_k", shape=cache),
            TensorSpec(name="next_cache_v", shape=cache),
        ],
        dynamic={spec.name: {0: "candidates"} for spec in inputs if spec.name != "step"},
    )
