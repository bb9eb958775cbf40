"""Every choice that makes a model, as one frozen structure that travels with its weights."""

from __future__ import annotations

from typing import Literal

import msgspec

from jepa_edge.bundle import Grounded
from jepa_edge.contract import Senses, WrongUseError

CONV_STEM_PATCH = 16

Activation = Literal["gelu", "relu", "silu"]


class EncoderConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vision transformer over tubelet and spectrogram tokens.

    ``stem="conv"`` embeds tubelets by a stack of convolutions instead of one: small models see
    where things are after a fraction of the training (Xiao et al., arXiv:2106.14881).

    ``rotary="tiled"`` is V-JEPA 2.0's layout, kept for its checkpoints: it is no rotation (shifting
    all positions changes the scores), so only ``"interleaved"`` may be causal and stream.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu"
    attention: Literal["causal", "bidirectional"] = "causal"
    rotary: Literal["interleaved", "tiled"] = "interleaved"
    stem: Literal["patch", "conv"] = "patch"

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for a shape or a combination that cannot work."""
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise WrongUseError(f"dim {self.dim} over {self.heads} heads gives no even head width")
        if self.attention == "causal" and self.rotary == "tiled":
            raise WrongUseError("tiled rotary is no rotation and cannot stream; use interleaved")


class PredictorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latents of the seen steps → latents of the next `horizon` steps."""

    kind: Literal["transformer", "mlp"] = "transformer"
    dim: int = 384
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"
    dropout: float = 0.0
    horizon: int = 2


class ActionConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pooled latents and candidate actions → pooled latents after each action."""

    dim: int = 96
    depth: int = 2
    heads: int = 3
    activation: Activation = "gelu"
    action_dim: int = 4
    history: int = 3
    horizon: int = 5
    candidates: int = 64


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole model. `window` is both the clip seen at inference and the reach of attention.

    `effort` and `caution` are what its planner weighs actions and lacking clearances with.
    """

    name: str
    encoder: EncoderConfig
    predictor: PredictorConfig | None
    action: ActionConfig | None = None
    senses: Senses = Senses()
    window: int = 8
    patch: int = 16
    mel_patch: int = 16
    pool: Literal["grid", "mean"] = "grid"
    pooled_dim: int = 128
    grounded: tuple[Grounded, ...] = ()
    effort: float = 0.002
    caution: float = 1.0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` when images or spectrograms do not split into whole patches."""
        video, audio = self.senses.video, self.senses.audio
        if video and (video.height % self.patch or video.width % self.patch):
            raise WrongUseError(
                f"{video.height}x{video.width} pixels do not split into patches of {self.patch}"
            )
        if audio and audio.mel_bins % self.mel_patch:
            raise WrongUseError(
                f"{audio.mel_bins} mel bins do not split into patches of {self.mel_patch}"
            )
        if self.encoder.stem == "conv" and self.patch != CONV_STEM_PATCH:
            raise WrongUseError(
                f"a conv stem makes patches of {CONV_STEM_PATCH} pixels, not {self.patch}"
            )
        if self.pool == "mean" and self.pooled_dim != self.encoder.dim:
            raise WrongUseError(f"a mean pool is as wide as the encoder: {self.encoder.dim}")
        if len(self.grounded) > self.pooled_dim:
            raise WrongUseError(f"{self.pooled_dim} pooled dimensions hold no more quantities")

    @property
    def grid(self) -> tuple[int, int]:
        """Video patches per column and per row; (0, 0) for an audio-only model."""
        video = self.senses.video
        return (video.height // self.patch, video.width // self.patch) if video else (0, 0)

    @property
    def video_tokens(self) -> int:
        """Video tokens in one step."""
        return self.grid[0] * self.grid[1]

    @property
    def audio_tokens(self) -> int:
        """Audio tokens in one step: one per group of `mel_patch` mel bins."""
        return self.senses.audio.mel_bins // self.mel_patch if self.senses.audio else 0

    @property
    def tokens_per_step(self) -> int:
        """N, the tokens of one step."""
        return self.video_tokens + self.audio_tokens

    @property
    def horizon(self) -> int:
        """Steps the predictor looks ahead; 0 without one."""
        return self.predictor.horizon if self.predictor else 0

    @property
    def looks_back(self) -> bool:
        """Whether no latent sees what comes after its step, so that a clip's are a stream's."""
        return self.encoder.attention == "causal" or self.window == 1

    @property
    def training_steps(self) -> int:
        """Steps of a training clip: what is seen, and the future that is predicted (80/20).

        A model that acts sees at least one whole rollout in it.
        """
        steps = self.window + max(self.horizon, 1)
        return max(steps, self.action.history + self.action.horizon) if self.action else steps
