"""Where steps come from: a camera and a microphone on one clock; the newest step wins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from jepa_edge.contract import (
    FRAMES_PER_STEP,
    FloatArray,
    InputError,
    MissingExtraError,
    Senses,
    WrongUseError,
)
from jepa_edge.media.decode import Recording, read_recording
from jepa_edge.media.features import Frames, fit_frame, log_mel, silence, video_from_frames

NO_MIC = "none"
LIVE = ("/dev/", "alsa:", "lavfi:", "gst:", "picamera2:", "sounddevice:")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


class StepData(msgspec.Struct, frozen=True, kw_only=True):
    """One step: `video [1, 3, 2, H, W]`, `audio [1, 1, M, t]`, and when its last moment was seen.

    `captured_ns` is on the monotonic clock. `dropped` counts the steps between the one before and
    this one that nobody had time for. A `fault` says why there is nothing to see or hear.
    """

    index: int
    captured_ns: int
    video: FloatArray | None
    audio: FloatArray | None
    dropped: int = 0
    fault: str = ""


class Source(Protocol):
    """Gives steps, as they come."""

    def steps(self) -> Iterator[StepData]:
        """The steps, until the source ends."""

    def close(self) -> None:
        """Lets go of the devices."""


class FileSource:
    """Plays recordings at their real rate, or as fast as they are taken (`fast`)."""

    def __init__(
        self,
        frames: Frames,
        samples: FloatArray | None,
        senses: Senses,
        *,
        fast: bool = False,
        repeat: bool = False,
    ) -> None:
        self.frames, self.samples = frames, samples
        self.senses, self.fast, self.repeat = senses, fast, repeat
        if senses.video:
            self.count = len(frames) // FRAMES_PER_STEP
        else:
            self.count = 0 if samples is None else len(samples) // senses.samples_per_step

    def steps(self) -> Iterator[StepData]:
        """At the real rate, a step that is over before it is asked for is dropped and counted."""
        began = time.monotonic_ns()
        step_ns = round(self.senses.step_s * 1e9)
        index = dropped = 0
        while index < self.count or self.repeat:
            due = began + (index + 1) * step_ns
            if not self.fast:
                late = (time.monotonic_ns() - due) // step_ns
                if late > 0 and (index + late < self.count or self.repeat):
                    index, dropped = index + late, dropped + late
                    continue
                time.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
            yield self._step(index, time.monotonic_ns() if self.fast else due, dropped)
            index, dropped = index + 1, 0

    def close(self) -> None:
        """A file that is in memory holds nothing open."""

    def _step(self, index: int, captured_ns: int, dropped: int) -> StepData:
        place = index % self.count
        frames = self.frames[place * FRAMES_PER_STEP : (place + 1) * FRAMES_PER_STEP]
        count = self.senses.samples_per_step
        before = self.samples[: place * count] if self.samples is not None else None
        heard = self.samples[place * count :][:count] if self.samples is not None else None
        return StepData(
            index=index,
            captured_ns=captured_ns,
            video=seen(frames, self.senses),
            audio=heard_in(heard, before, self.senses),
            dropped=dropped,
        )


def seen(frames: Frames, senses: Senses) -> FloatArray | None:
    """`frames [2, H, W, 3]` of one step as `video [1, 3, 2, H, W]`; None for a blind model."""
    return video_from_frames(frames, senses.video)[None] if senses.video else None


def heard_in(
    samples: FloatArray | None, before: FloatArray | None, senses: Senses
) -> FloatArray | None:
    """The sound of one step as `audio [1, 1, M, t]`; silence without any, None for a deaf model.

    `before` is what was heard until then; the features of a step reach back into it.
    """
    spec = senses.audio
    if spec is None:
        return None
    if samples is None or len(samples) < senses.samples_per_step:
        return silence(spec, senses.mel_frames_per_step)[None, None]
    lead = spec.window - spec.hop
    past = np.zeros(0, np.float32) if before is None else before[-lead:]
    head = np.concatenate((np.zeros(lead - len(past), np.float32), past))
    return log_mel(samples, spec, head)[None, None]


def is_live(uri: str) -> bool:
    """Whether `uri` names a device or a stream, not a file."""
    return "://" in uri or uri.startswith(LIVE)


def open_source(
    camera: str,
    mic: str,
    senses: Senses,
    *,
    fast: bool = False,
    repeat: bool = False,
    stall_s: float = 0.0,
) -> Source:
    """The source for a camera and a microphone; `mic` "none" is digital silence.

    Args:
        camera: a media file; ``/dev/video0``, ``rtsp://…`` or another stream; ``lavfi:GRAPH``;
            ``gst:PIPELINE``; ``picamera2:0``; a folder of pictures, in the order of their names.
        mic: the same, or ``alsa:hw:0``, ``sounddevice:NAME``, or "none". As the camera: one file
            or stream for both.
        senses: the geometry to decode to.
        fast: give a file's steps as they are taken, not at their real rate.
        repeat: begin a file again when it ends.
        stall_s: see `LiveSource`.

    Raises:
        WrongUseError: a file with a live device, or a live device at another rate than real.
        InputError: what is missing or broken, or has no sound though it is the microphone.
    """
    if senses.audio is None:
        mic = NO_MIC
    if senses.video is None and mic == NO_MIC:
        raise WrongUseError("this model only hears; --mic none leaves it nothing")
    needed = [uri for uri in (camera if senses.video else NO_MIC, mic) if uri != NO_MIC]
    if senses.video and camera == NO_MIC:
        raise WrongUseError("this model sees; --camera none is for one that only hears")
    live = [uri for uri in needed if is_live(uri)]
    if not live:
        return _file_source(camera, mic, senses, fast=fast, repeat=repeat)
    if len(live) != len(needed):
        raise WrongUseError(f"{' and '.join(needed)}: both must be files, or both live")
    if fast or repeat:
        raise WrongUseError(f"{live[0]} is live: --fast and --repeat are for files")
    from jepa_edge.runtimes.live import LiveSource

    return LiveSource(camera, mic, senses, stall_s)


def read_pictures(folder: Path, senses: Senses) -> Frames:
    """The pictures in `folder` in the order of their names, as frames `[T, H, W, 3]`.

    Raises:
        InputError: one cannot be read, or there are too few for a step.
        MissingExtraError: OpenCV is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV", "sensors") from error
    assert senses.video
    frames = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES):
        bgr = cv2.imread(str(path))
        if bgr is None:
            raise InputError(f"{path} is no picture that can be read; mend or remove it")
        frames.append(fit_frame(np.ascontiguousarray(bgr[..., ::-1]), senses.video))
    if len(frames) < FRAMES_PER_STEP:
        raise InputError(f"{folder} holds {len(frames)} pictures ({', '.join(PICTURES)}); give two")
    return np.stack(frames)


def _file_source(camera: str, mic: str, senses: Senses, *, fast: bool, repeat: bool) -> FileSource:
    deaf = msgspec.structs.replace(senses, audio=None) if senses.video else senses
    blind = msgspec.structs.replace(senses, video=None) if senses.audio else senses
    if mic == camera and Path(camera).is_dir():
        mic = NO_MIC
    if mic == camera and senses.video:
        both: Recording = read_recording(Path(camera), senses, sound="required")
        return FileSource(both.frames, both.samples, senses, fast=fast, repeat=repeat)
    frames, samples = np.zeros((0, 0, 0, 3), np.uint8), None
    if senses.video and Path(camera).is_dir():
        frames = read_pictures(Path(camera), senses)
    elif senses.video:
        frames = read_recording(Path(camera), deaf, sound="none").frames
    if mic != NO_MIC:
        samples = read_recording(Path(mic), blind, sound="required").samples
        if samples is None:
            raise InputError(f"{mic} has no sound; give another file, or --mic none")
    return FileSource(frames, samples, senses, fast=fast, repeat=repeat)
