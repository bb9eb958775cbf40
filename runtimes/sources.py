"""Where steps come from: a camera and a microphone, one clock, the newest step wins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, Senses, WrongUseError
from jepa_edge.media.decode import Recording, read_recording
from jepa_edge.media.features import log_mel, silence, video_from_frames


class StepData(msgspec.Struct, frozen=True, kw_only=True):
    """One step: `video [1, 3, 2, H, W]`, `audio [1, 1, M, t]`, and when its last frame was seen.

    `dropped` counts the steps between the one before and this one that nobody had time for.
    """

    index: int
    captured_ns: int
    video: FloatArray | None
    audio: FloatArray | None
    dropped: int


class Source(Protocol):
    """Gives steps, as they come."""

    def steps(self) -> Iterator[StepData]:
        """The steps, until the source ends."""


class FileSource:
    """Plays recordings at their real rate, or as fast as they are taken (`fast`)."""

    def __init__(
        self, recording: Recording, samples: FloatArray | None, senses: Senses, *, fast: bool
    ) -> None:
        self.recording, self.samples = recording, samples
        self.senses, self.fast = senses, fast
        if senses.video:
            self.count = len(recording.frames) // FRAMES_PER_STEP
        else:
            self.count = 0 if samples is None else len(samples) // senses.samples_per_step

    def steps(self) -> Iterator[StepData]:
        """At the real rate, a step that is over before it is asked for is dropped and counted."""
        began = time.monotonic_ns()
        step_ns = round(self.senses.step_s * 1e9)
        index = dropped = 0
        while index < self.count:
            due = began + (index + 1) * step_ns
            if not self.fast:
                late = (time.monotonic_ns() - due) // step_ns
                if late > 0 and index + late < self.count:
                    index, dropped = index + late, dropped + late
                    continue
                time.sleep(max(0.0, (due - time.monotonic_ns()) / 1e9))
            captured = time.monotonic_ns() if self.fast else due
            yield self._step(index, captured, dropped)
            index, dropped = index + 1, 0

    def _step(self, index: int, captured_ns: int, dropped: int) -> StepData:
        senses, video, audio = self.senses, None, None
        if senses.video:
            pair = self.recording.frames[index * FRAMES_PER_STEP : (index + 1) * FRAMES_PER_STEP]
            video = video_from_frames(pair, senses.video)[None]
        if senses.audio:
            audio = self._audio(index)[None, None]
        return StepData(
            index=index, captured_ns=captured_ns, video=video, audio=audio, dropped=dropped
        )

    def _audio(self, index: int) -> FloatArray:
        spec, count = self.senses.audio, self.senses.samples_per_step
        assert spec
        piece = None if self.samples is None else self.samples[index * count : (index + 1) * count]
        if piece is None or len(piece) < count:
            return silence(spec, self.senses.mel_frames_per_step)
        assert self.samples is not None
        before = spec.window - spec.hop
        head = np.concatenate((np.zeros(before, np.float32), self.samples[: index * count]))
        return log_mel(piece, spec, head[-before:])


def open_source(camera: str, mic: str, senses: Senses, *, fast: bool) -> FileSource:
    """The source for a camera and a microphone file; `mic` "none" is silence.

    Raises:
        WrongUseError: a device or stream, which this version cannot open yet.
        InputError: a file that is missing or broken, or has no sound though it is the microphone.
    """
    for uri in (camera, mic):
        if "://" in uri or uri.startswith(("/dev/", "alsa:")):
            raise WrongUseError(f"{uri}: only files can be played as camera and microphone so far")
    hears = bool(senses.audio) and mic != "none"
    same = mic == camera
    wanted = "required" if hears and same else "none"
    recording = read_recording(Path(camera), senses, sound=wanted)  # type: ignore[arg-type]
    samples = recording.samples
    if hears and not same:
        alone = msgspec.structs.replace(senses, video=None)
        samples = read_recording(Path(mic), alone, sound="required").samples
        if samples is None:
            raise InputError(f"{mic} has no sound; give another file, or --mic none")
    return FileSource(recording, samples, senses, fast=fast)
