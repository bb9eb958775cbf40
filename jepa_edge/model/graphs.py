"""The graphs a bundle may hold, as modules with named inputs and outputs, ready to be traced."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_edge.contract import FRAMES_PER_STEP, CacheType, TensorSpec
from jepa_edge.model.blocks import Cache
from jepa_edge.model.graph_source import GraphSource
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.lewm import LeWm, lewm_graphs
from jepa_edge.model.rotary import axis_width
from jepa_edge.model.vjepa.graphs import vjepa_graphs
from jepa_edge.model.vjepa.model import VJepa


class _Sensing(nn.Module):
    """Takes its positional tensors as (video, audio), or the one sense that the model has."""

    def __init__(self, model: JEPA) -> None:
        super().__init__()
        self.model = model

    def senses(self, *given: Tensor) -> tuple[Tensor | None, Tensor | None]:
        spec = self.model.config.senses
        if spec.video and spec.audio:
            return given[0], given[1]
        return (given[0], None) if spec.video else (None, given[0])


class EncoderGraph(_Sensing):
    """video, audio → latents `[1, S*N, D]`, pooled `[1, S, P]`."""

    def forward(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """The whole clip goes through the context encoder: no 80/20 split at inference."""
        latents, pooled = self.model(*self.senses(*given))
        return latents.flatten(1, 2), pooled


class StepGraph(_Sensing):
    """video, audio, caches, filled, turn → latents, pooled, the step's own keys and values.

    The caches are kept as `cache`: the model's own type, float16, or int8 with one scale for each
    key and value vector (symmetric, as in KIVI, arXiv:2402.02750, but for tokens throughout).
    """

    def __init__(self, model: JEPA, cache: CacheType) -> None:
        super().__init__(model)
        self.cache = cache

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """One step of a stream."""
        senses = len(given) - (6 if self.cache == "int8" else 4)
        *caches, filled, turn = given[senses:]
        encoder = self.model.encoder
        layers = [self._read([cache[:, i] for cache in caches]) for i in range(len(encoder.blocks))]
        latents, new = encoder.step(*self.senses(*given[:senses]), layers, filled, turn)
        return latents[:, 0], self.model.pool(latents), *self._stored(new)

    def _read(self, stored: list[Tensor]) -> Cache:
        """Keys and values of one layer: widened where they are needed, while they are near."""
        keys, values, *scales = (part.to(self.model.encoder.norm.weight.dtype) for part in stored)
        return (keys * scales[0], values * scales[1]) if scales else (keys, values)

    def _stored(self, new: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        if self.cache == "float16":
            return new[0].half(), new[1].half()
        if self.cache == "float32":
            return new
        scales = tuple(x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6) / 127.0 for x in new)
        rounded = tuple(torch.round(x / s) for x, s in zip(new, scales, strict=True))
        return *(x.to(torch.int8) for x in rounded), *scales


class PredictorGraph(nn.Module):
    """latents `[1, W*N, D]` → future `[1, J*N, D]`, future_pooled `[1, J, P]`."""

    def __init__(self, model: JEPA) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The latents of the next steps."""
        per_step = self.model.config.tokens_per_step
        batch, tokens, dim = latents.shape
        steps = latents.view(batch, tokens // per_step, per_step, dim)
        future, pooled = self.model.predict(steps)
        return future.flatten(1, 2), pooled


class RolloutGraph(nn.Module):
    """history `[1, Hh, P]`, actions `[K, J, A]` → rollout `[K, J, P]`."""

    def __init__(self, model: JEPA) -> None:
        super().__init__()
        self.model = model

    def forward(self, history: Tensor, actions: Tensor) -> Tensor:
        """Every candidate's predicted latents, in one pass."""
        return self.model.rollout(history, actions)


def graphs_of(model: JEPA | VJepa | LeWm, cache: CacheType = "float32") -> list[GraphSource]:
    """Every graph the model has: encoder, predictor, step (causal), rollout (action models).

    For imported models see `vjepa_graphs` and `lewm_graphs`.
    """
    if isinstance(model, VJepa):
        return vjepa_graphs(model)
    if isinstance(model, LeWm):
        return lewm_graphs(model)
    config = model.config
    per_step, dim, pooled = config.tokens_per_step, config.encoder.dim, config.pooled_dim
    window = config.window
    graphs = [
        GraphSource(
            name="encoder",
            module=EncoderGraph(model),
            inputs=_sense_specs(model, window),
            outputs=[
                TensorSpec(name="latents", shape=(1, window * per_step, dim)),
                TensorSpec(name="pooled", shape=(1, window, pooled)),
            ],
        )
    ]
    if config.predictor:
        ahead = config.horizon
        graphs.append(
            GraphSource(
                name="predictor",
                module=PredictorGraph(model),
                inputs=[TensorSpec(name="latents", shape=(1, window * per_step, dim))],
                outputs=[
                    TensorSpec(name="future", shape=(1, ahead * per_step, dim)),
                    TensorSpec(name="future_pooled", shape=(1, ahead, pooled)),
                ],
            )
        )
    if config.encoder.attention == "causal":
        graphs.append(_step_source(model, cache))
    if config.action:
        spec = config.action
        graphs.append(
            GraphSource(
                name="rollout",
                module=RolloutGraph(model),
                inputs=[
                    TensorSpec(name="history", shape=(1, spec.history, pooled)),
                    TensorSpec(
                        name="actions", shape=(spec.candidates, spec.horizon, spec.action_dim)
                    ),
                ],
                outputs=[TensorSpec(name="rollout", shape=(spec.candidates, spec.horizon, pooled))],
            )
        )
    return graphs


def _sense_specs(model: JEPA, steps: int) -> list[TensorSpec]:
    senses = model.config.senses
    specs = []
    if senses.video:
        shape = (1, 3, steps * FRAMES_PER_STEP, senses.video.height, senses.video.width)
        specs.append(TensorSpec(name="video", shape=shape))
    if senses.audio:
        frames = steps * senses.mel_frames_per_step
        specs.append(TensorSpec(name="audio", shape=(1, 1, senses.audio.mel_bins, frames)))
    return specs


def _step_source(model: JEPA, cache: CacheType) -> GraphSource:
    config = model.config
    encoder, per_step = config.encoder, config.tokens_per_step
    head = encoder.dim // encoder.heads
    names = [("k", cache, head), ("v", cache, head)]
    if cache == "int8":
        names += [("k_scale", "float32", 1), ("v_scale", "float32", 1)]

    def ports(prefix: str, tokens: int) -> list[TensorSpec]:
        shape = (1, encoder.depth, encoder.heads, tokens)
        return [
            TensorSpec(name=f"{prefix}_{name}", shape=(*shape, width), dtype=dtype)
            for name, dtype, width in names
        ]

    return GraphSource(
        name="step",
        module=StepGraph(model, cache),
        inputs=[
            *_sense_specs(model, 1),
            *ports("cache", (config.window - 1) * per_step),
            TensorSpec(name="filled", shape=(1,)),
            TensorSpec(name="turn", shape=(1, 2, axis_width(head))),
        ],
        outputs=[
            TensorSpec(name="latents", shape=(1, per_step, encoder.dim)),
            TensorSpec(name="pooled", shape=(1, 1, config.pooled_dim)),
            *ports("new", per_step),
        ],
    )
