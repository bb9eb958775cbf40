"""Every choice that makes an imported V-JEPA 2 model, as one frozen structure."""

from __future__ import annotations

from typing import Literal

import msgspec

from jepa_edge.contract import FRAMES_PER_STEP, Senses, VideoSpec, WrongUseError

Family = Literal["2.0", "2.1", "2-AC"]
DEFAULT_FRAMES = 16
"""What a clip holds unless asked: 64 frames, the most these models saw, are 16 times the scores."""


class ClipShape(msgspec.Struct, frozen=True, kw_only=True):
    """What a clip of an imported model looks like; None (or 0) takes the checkpoint's own.

    Attributes:
        frames: per clip; the checkpoint's, but at most 16, unless given.
        height: pixels.
        width: pixels.
        fps: frames per second the robot's camera is sampled at (V-JEPA 2 was trained at 4).
        horizon: steps that the predictor looks ahead.
    """

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float = 4.0
    horizon: int = 2


class TransformerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stack of pre-norm blocks with three-axis rotary attention."""

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    activation: str = "gelu"
    qkv_bias: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for heads that do not divide the width."""
        if self.dim < 1 or self.heads < 1 or self.dim % self.heads:
            raise WrongUseError(f"a width of {self.dim} does not split into {self.heads} heads")

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.dim // self.heads


class MaskedPredictorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latents at some positions → latents at others.

    Attributes:
        blocks: its transformer.
        mask_tokens: how many are in the checkpoint.
        mask_index: which one stands for a wanted token; the published code always takes 1.
        levels: encoder levels that it reads, side by side (V-JEPA 2.1's large models: 4).
        out_dim: width of what it predicts; the teacher's, for a distilled model.
        context_head: whether it has an output for the context tokens too (2.1).
    """

    blocks: TransformerConfig
    mask_tokens: int
    mask_index: int = 1
    levels: int = 1
    out_dim: int
    context_head: bool = False


class ClassifierConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The attentive pooler and its linear layer."""

    layers: int
    mlp_dim: int
    labels: list[str]


class ActionPredictorConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """V-JEPA 2-AC's predictor: per step an action, a state (, the extrinsics) and all patches."""

    blocks: TransformerConfig
    action_dim: int = 7
    extrinsics: bool = False


class VJepaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An imported model. `frames`, `height` and `width` are those of the clips it will see.

    Attributes:
        rotary: ``tiled`` is 2.0's (kept for its checkpoints), ``interleaved`` 2.1's.
        rotary_grid: 2.1 stretches rows and columns to this many patches, in the encoder alone.
        image_patches: 2.1's tokenizer of single frames.
        norm_levels: how many of the encoder's level norms are kept (the last one is the output).
        levels: layers whose outputs they normalize.
    """

    name: str
    family: Family
    encoder: TransformerConfig
    predictor: MaskedPredictorConfig | None = None
    classifier: ClassifierConfig | None = None
    action: ActionPredictorConfig | None = None
    patch: int = 16
    tubelet: int = FRAMES_PER_STEP
    channels: int = 3
    rotary: Literal["interleaved", "tiled"] = "tiled"
    rotary_grid: int | None = None
    image_patches: bool = False
    levels: list[int] = []
    frames: int = DEFAULT_FRAMES
    height: int = 256
    width: int = 256
    fps: float = 4.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    horizon: int = 2

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for a clip that does not hold one whole patch and tubelet."""
        if self.frames < 1 or (self.frames >= self.tubelet and self.frames % self.tubelet):
            raise WrongUseError(
                f"{self.frames} frames do not split into tubelets of {self.tubelet}; give a "
                f"multiple of {self.tubelet} with --frames"
            )
        if min(self.height, self.width) < self.patch:
            raise WrongUseError(
                f"{self.height}x{self.width} pixels hold no patch of {self.patch}x{self.patch}"
            )

    @property
    def window(self) -> int:
        """Steps (tubelets) of a clip."""
        return max(self.frames // self.tubelet, 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per column and per row."""
        return self.height // self.patch, self.width // self.patch

    @property
    def tokens_per_step(self) -> int:
        """N, the tokens of one step."""
        return self.grid[0] * self.grid[1]

    @property
    def senses(self) -> Senses:
        """What a runtime must capture for this model."""
        return Senses(
            video=VideoSpec(
                fps=self.fps, height=self.height, width=self.width, mean=self.mean, std=self.std
            ),
            audio=None,
            steps_per_second=self.fps / FRAMES_PER_STEP,
        )
