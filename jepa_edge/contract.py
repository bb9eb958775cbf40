"""The words all rooms share: axis letters, tensor specs, sensor geometry, errors.

Axis letters, fixed for the whole project: B batch, S steps, T frames, C/H/W image, M mel bins,
N tokens of one step, D latent width, P width of a pooled latent, A action, K candidates,
J horizon in steps, L layers. A *step* is the time of one tubelet (2 frames): runtimes tick.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[Any]]
"""Arrays by the name of the input or output they are for."""

GRAPHS = (
    "encoder",
    "predictor",
    "masked_predictor",
    "classifier",
    "image_encoder",
    "step",
    "rollout",
    "rollout_step",
)
"""Every graph a bundle may hold, in the order they are reported."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8w", "fp8", "mixed", "int8", "int4w")
"""Every precision export can write, most exact first."""

CacheType = Literal["float32", "float16", "int8"]
"""What a stream may keep its keys and values in."""

FRAMES_PER_STEP = 2
"""A tubelet spans two frames (V-JEPA, arXiv:2404.08471)."""

ROTARY_THETA = 10_000.0
"""The base of rotary positions (RoFormer, arXiv:2104.09864): training and a stream share it."""


class JepaEdgeError(Exception):
    """Something a person can mend: the message says what was asked, what is possible, what to do.

    ``exit_code`` is what a command line ends with: 2 wrong use or bad input, 1 a failed check.
    """

    exit_code = 2


class WrongUseError(JepaEdgeError):
    """A flag, a configuration value or a combination of them cannot be served."""


class InputError(JepaEdgeError):
    """A file, stream or array is missing, broken, or not what it should be."""


class MissingExtraError(JepaEdgeError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is missing; install it with: pip install 'jepa-edge[{extra}]'")


def cache_type(name: str) -> CacheType:
    """The cache type called `name`. Raises `WrongUseError` if there is none."""
    for known in get_args(CacheType):
        if known == name:
            found: CacheType = known
            return found
    raise WrongUseError(f"no cache type {name!r}; known: {', '.join(get_args(CacheType))}")


class CheckFailedError(JepaEdgeError):
    """A measured check (parity, hash, health) did not hold."""

    exit_code = 1


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Name, shape and dtype of one tensor at a border between rooms; a size of -1 is dynamic."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def zeros(self) -> npt.NDArray[Any]:
        """Zeros of this shape and dtype; a dynamic size becomes 1."""
        return np.zeros([abs(size) for size in self.shape], self.dtype)

    def check(self, array: npt.NDArray[Any], *, where: str) -> None:
        """Raises `InputError` unless `array` has this shape and dtype and only finite values."""
        same_rank = len(array.shape) == len(self.shape)
        if not (
            same_rank and all(w in (-1, g) for g, w in zip(array.shape, self.shape, strict=True))
        ):
            raise InputError(
                f"{where}: {self.name} has shape {list(array.shape)}, needs {list(self.shape)}"
            )
        if str(array.dtype) != self.dtype:
            raise InputError(f"{where}: {self.name} is {array.dtype}, needs {self.dtype}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{where}: {self.name} holds NaN or infinite values")


class Feed(msgspec.Struct, frozen=True, kw_only=True):
    """One real call of a graph: its inputs, the outputs it should give, whether a stream begins."""

    clip: str
    inputs: Tensors
    outputs: Tensors
    begins: bool = True


class VideoSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How frames become the model's `video [B, 3, T, H, W]`: RGB / 255, normalised per channel."""

    fps: float = 10.0
    height: int = 96
    width: int = 96
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


class AudioSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sound becomes the model's `audio [B, 1, M, T_audio]`: causal log-mel, one scale for all.

    Mel frame k covers samples ``[(k + 1) * hop - window, (k + 1) * hop)``: it never looks ahead, so
    features computed step by step equal those of the whole clip. Digital silence maps to exactly
    ``(log(floor) - mean) / std``; that is also what a missing microphone feeds.
    """

    sample_rate: int = 16_000
    hop: int = 160
    window: int = 400
    mel_bins: int = 64
    f_min_hz: float = 50.0
    f_max_hz: float = 8_000.0
    floor: float = 1e-9
    mean: float = -14.0
    std: float = 4.0


class Senses(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model sees and hears; at least one of the two."""

    video: VideoSpec | None = VideoSpec()
    audio: AudioSpec | None = AudioSpec()
    steps_per_second: float = 5.0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` when the two senses do not share one step."""
        if self.video is None and self.audio is None:
            raise WrongUseError("a model needs video, audio or both; neither is set")
        if self.video and abs(self.video.fps / FRAMES_PER_STEP - self.steps_per_second) > 1e-9:
            raise WrongUseError(
                f"{self.video.fps} frames/s make {self.video.fps / FRAMES_PER_STEP} steps/s, "
                f"not {self.steps_per_second}"
            )
        if self.audio and (self.audio.sample_rate / self.steps_per_second) % self.audio.hop:
            raise WrongUseError(
                f"a step of {self.audio.sample_rate / self.steps_per_second} samples is no whole "
                f"number of hops of {self.audio.hop}"
            )

    @property
    def step_s(self) -> float:
        """Seconds in one step."""
        return 1.0 / self.steps_per_second

    @property
    def samples_per_step(self) -> int:
        """Audio samples in one step; 0 without audio."""
        return round(self.audio.sample_rate * self.step_s) if self.audio else 0

    @property
    def mel_frames_per_step(self) -> int:
        """Spectrogram frames in one step; 0 without audio."""
        return self.samples_per_step // self.audio.hop if self.audio else 0
