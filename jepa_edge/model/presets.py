"""Named sizes: `large`, `huge`, `giant` are V-JEPA 2's; the smaller ones see, hear and stream.

`pilot` is small enough to plan often: each step is encoded alone, into one short latent (LeWM).
`pilot-wide` sees more, and plans as fast.
"""

from __future__ import annotations

import msgspec

from jepa_edge.contract import Senses, VideoSpec, WrongUseError
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig

_AT_224 = Senses(video=VideoSpec(height=224, width=224))


def _streaming(name: str, dim: int, depth: int, heads: int, predictor: int) -> ModelConfig:
    """An audio-visual, causal model at 224 px with ViT-Ti/S/B's published sizes."""
    return ModelConfig(
        name=name,
        encoder=EncoderConfig(dim=dim, depth=depth, heads=heads),
        predictor=PredictorConfig(dim=predictor, depth=6, heads=predictor // 32),
        action=ActionConfig(dim=192, depth=4, heads=6),
        senses=_AT_224,
        pooled_dim=192,
    )


def _vjepa2(name: str, dim: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> ModelConfig:
    """V-JEPA 2 (arXiv:2506.09985): 64 frames at 256 px, bidirectional, tiled rotary."""
    return ModelConfig(
        name=name,
        encoder=EncoderConfig(
            dim=dim,
            depth=depth,
            heads=heads,
            mlp_ratio=mlp_ratio,
            attention="bidirectional",
            rotary="tiled",
        ),
        predictor=PredictorConfig(dim=384, depth=12, heads=12),
        senses=Senses(
            video=VideoSpec(fps=4.0, height=256, width=256), audio=None, steps_per_second=2.0
        ),
        window=32,
        pool="mean",
        pooled_dim=dim,
    )


_PILOT = ModelConfig(
    name="pilot",
    encoder=EncoderConfig(dim=96, depth=1, heads=4, attention="bidirectional", stem="conv"),
    predictor=None,
    action=ActionConfig(dim=96, depth=3, heads=4, history=2, horizon=5, candidates=128),
    window=1,
    pooled_dim=64,
)

PRESETS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(
            name="nano",
            encoder=EncoderConfig(dim=128, depth=6, heads=4, stem="conv"),
            predictor=PredictorConfig(dim=96, depth=2, heads=3),
            action=ActionConfig(),
        ),
        _PILOT,
        msgspec.structs.replace(
            _PILOT,
            name="pilot-wide",
            encoder=msgspec.structs.replace(_PILOT.encoder, dim=128, depth=2),
        ),
        _streaming("tiny", 192, 12, 3, 96),
        _streaming("small", 384, 12, 6, 192),
        _streaming("base", 768, 12, 12, 384),
        _vjepa2("large", 1024, 24, 16),
        _vjepa2("huge", 1280, 32, 16),
        _vjepa2("giant", 1408, 40, 22, 48 / 11),
    )
}


def preset(name: str) -> ModelConfig:
    """The preset called `name`. Raises `WrongUseError` if there is none."""
    if name not in PRESETS:
        raise WrongUseError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]
