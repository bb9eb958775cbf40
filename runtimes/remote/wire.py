"""What crosses the link: the names of models and tensors, steps in few bytes, latents in int8.

The protocol is the Open Inference Protocol v2 (KServe, Triton, OpenVINO Model Server, MLServer);
sessions use the names of Triton's sequence extension. Nothing is ever pickled.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from jepa_edge.contract import (
    FRAMES_PER_STEP,
    CheckFailedError,
    FloatArray,
    InputError,
    MissingExtraError,
    Senses,
    Tensors,
    VideoSpec,
)
from jepa_edge.media.features import Frames, video_from_frames
from jepa_edge.runtimes.sources import StepData

STREAM = "stream"
"""Model: steps of a session in, latents and predictions out."""
PILOT = "pilot"
"""Model: steps of a session and a goal in, planned actions out."""
PLANNER = "planner"
"""Model without state: history and a goal in, planned actions out (split inference)."""

SEQUENCE_ID, SEQUENCE_START, SEQUENCE_END = "sequence_id", "sequence_start", "sequence_end"
FIRST_STEP = "first_step"

Uplink = Literal["raw", "jpeg", "pooled", "int8"]
"""Pixels as they are, JPEG pixels, or latents of an encoder on board in fp32 or int8."""

JPEG_QUALITY = 90


class LinkError(CheckFailedError):
    """The far side did not give a usable answer; the stream itself is intact, the next may."""


class LateError(LinkError):
    """No answer before the deadline."""


class RefusedError(LinkError):
    """The server answered with an error of the protocol, named in ``code``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"server: {code}: {message}")
        self.code = code

    @property
    def forgot(self) -> bool:
        """Whether the session is not known there. Triton has no code of its own for that."""
        return self.code == "FAILED_PRECONDITION" or SEQUENCE_START in str(self)


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Outputs by name, and what getting them cost."""

    outputs: Tensors
    sent_bytes: int
    received_bytes: int
    took_ms: float
    hedged: bool = False


def frames_from_video(video: FloatArray, spec: VideoSpec) -> Frames:
    """`[1, 3, 2, H, W]` normalised → the uint8 frames `[2, H, W, 3]` it was made of, exactly."""
    mean, std = (np.array(v, np.float32)[:, None, None, None] for v in (spec.mean, spec.std))
    scaled = np.rint((video[0] * std + mean) * 255)
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 3, 0))


def jpeg_from_frames(frames: Frames, quality: int = JPEG_QUALITY) -> npt.NDArray[np.object_]:
    """`frames [n, H, W, 3]` RGB as an object array `[n]` of JPEG files (ITU-T T.81)."""
    cv2 = _cv2()
    found = np.empty(len(frames), object)
    for index, frame in enumerate(frames):
        done, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if not done:
            raise InputError(f"a frame {list(frame.shape)} cannot become a JPEG file")
        found[index] = data.tobytes()
    return found


def frames_from_jpeg(files: npt.NDArray[np.object_], spec: VideoSpec) -> Frames:
    """The frames `[n, H, W, 3]` RGB of `files [n]`, each of the model's size.

    The size is read from the file's header before anything is decoded: a small file may claim
    65535 x 65535 pixels.

    Raises `InputError` for anything but JPEG files of `spec.height` x `spec.width`.
    """
    cv2 = _cv2()
    frames = []
    for number, file in enumerate(files.ravel()):
        size = jpeg_size(bytes(file))
        if size != (spec.height, spec.width):
            raise InputError(
                f"frame {number} is {'no JPEG file' if size is None else f'a JPEG of {size}'}, "
                f"needs a JPEG of {(spec.height, spec.width)} (height, width)"
            )
        frame = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
        if frame is None or frame.shape[:2] != size:
            raise InputError(f"frame {number} is a broken JPEG file")
        frames.append(frame[..., ::-1])
    return np.stack(frames)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) from a JPEG's frame header (ITU-T T.81 B.2.2); None if there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[at + 5 : at + 7], data[at + 7 : at + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        at += 2 + length
    return None


def tensors_from_steps(steps: list[StepData], senses: Senses, uplink: Uplink) -> dict[str, Any]:
    """Arrays that carry `steps`, by the name of the input they are for.

    `frames [n, 2, H, W, 3]` uint8 and `audio [n, 1, M, t]` fp32, or `jpeg [n, 2]` bytes and
    `audio_half [n, 1, M, t]` fp16.
    """
    found: dict[str, Any] = {}
    if senses.video:
        frames = np.stack([frames_from_video(_given(s.video), senses.video) for s in steps])
        if uplink == "jpeg":
            flat = jpeg_from_frames(frames.reshape(-1, *frames.shape[2:]))
            found["jpeg"] = flat.reshape(len(steps), FRAMES_PER_STEP)
        else:
            found["frames"] = frames
    if senses.audio:
        audio = np.concatenate([_given(step.audio) for step in steps])
        if uplink == "jpeg":
            found["audio_half"] = audio.astype(np.float16)
        else:
            found["audio"] = audio
    return found


def steps_from_tensors(tensors: dict[str, Any], senses: Senses, first: int) -> list[StepData]:
    """The steps in `tensors`, numbered from `first`; see `tensors_from_steps`.

    Raises `InputError` for what is missing, of another shape or type, or not finite.
    """
    count = _count(tensors)
    video = _video(tensors, senses.video, count) if senses.video else [None] * count
    audio = _audio(tensors, senses, count) if senses.audio else [None] * count
    return [
        StepData(index=first + k, captured_ns=0, video=video[k], audio=audio[k])
        for k in range(count)
    ]


def int8_from_latents(latents: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """`[n, P]` as symmetric int8 `[n, P]` and a scale `[n]` for each vector."""
    scale = np.maximum(np.abs(latents).max(axis=1), 1e-12) / 127
    return np.rint(latents / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def latents_from_int8(values: npt.NDArray[np.int8], scale: FloatArray) -> FloatArray:
    """What `int8_from_latents` was given, to within half a scale."""
    return values.astype(np.float32) * scale[:, None]


def _given(array: FloatArray | None) -> FloatArray:
    if array is None:
        raise InputError("a step lacks a sense that the model has; hold instead of sending it")
    return array


def _count(tensors: dict[str, Any]) -> int:
    for name in ("frames", "jpeg", "audio", "audio_half"):
        if name in tensors and tensors[name].ndim and len(tensors[name]):
            return len(tensors[name])
    raise InputError("no steps: give frames or jpeg, and audio, for at least one step")


def _video(tensors: dict[str, Any], spec: VideoSpec, count: int) -> list[FloatArray]:
    shape = (count, FRAMES_PER_STEP, spec.height, spec.width, 3)
    if "jpeg" in tensors:
        if tensors["jpeg"].shape != shape[:2]:
            raise InputError(f"jpeg has shape {list(tensors['jpeg'].shape)}, needs {shape[:2]}")
        frames = frames_from_jpeg(tensors["jpeg"], spec).reshape(shape)
    elif "frames" in tensors:
        frames = tensors["frames"]
        if frames.shape != shape or frames.dtype != np.uint8:
            raise InputError(
                f"frames is {frames.dtype} {list(frames.shape)}, needs uint8 {list(shape)}"
            )
    else:
        raise InputError("frames are missing: give frames (uint8) or jpeg (bytes)")
    return [video_from_frames(pair, spec)[None] for pair in frames]


def _audio(tensors: dict[str, Any], senses: Senses, count: int) -> list[FloatArray]:
    assert senses.audio is not None
    shape = (count, 1, senses.audio.mel_bins, senses.mel_frames_per_step)
    name = "audio_half" if "audio_half" in tensors else "audio"
    audio, dtype = tensors.get(name), np.float16 if name == "audio_half" else np.float32
    if audio is None:
        raise InputError(f"audio is missing: this model hears; needs {list(shape)}")
    if audio.shape != shape or audio.dtype != dtype:
        raise InputError(
            f"{name} is {audio.dtype} {list(audio.shape)}, needs {np.dtype(dtype)} {list(shape)}"
        )
    if not np.isfinite(audio).all():
        raise InputError("audio holds NaN or infinite values")
    return [part[None].astype(np.float32) for part in audio]


def _cv2() -> Any:  # noqa: ANN401  (a module without types)
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV", "sensors") from error
    return cv2
