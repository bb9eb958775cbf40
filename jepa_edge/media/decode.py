"""Media files → frames and sound on one clock, by their own timestamps (PyAV)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from jepa_edge.contract import (
    FRAMES_PER_STEP,
    FloatArray,
    InputError,
    MissingExtraError,
    Senses,
)
from jepa_edge.media.features import Frames, fit_frame

Sound = Literal["required", "optional", "none"]
_TRACK_END = 1e-3
_HEADER_SLACK_S = 0.5  # headers round, and count the longest track


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """`frames [T, H, W, 3]` uint8 and `samples [n]` float32 mono, cut to the same whole steps."""

    name: str
    frames: Frames
    samples: FloatArray | None

    @property
    def has_sound(self) -> bool:
        """Whether the file had a sound track that was read."""
        return self.samples is not None


def read_recording(
    path: Path,
    senses: Senses,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    sound: Sound = "optional",
) -> Recording:
    """The recording at `path`: frame k shows what the file shows at ``start_s + k / fps``.

    Variable frame rates are held until the next frame; sound is resampled to mono and placed by
    its own timestamps, gaps as zeros.

    Raises:
        InputError: missing, not media, cut off, no video, no sound though required, sound that
            is no number, or too short.
        MissingExtraError: PyAV is not installed.
    """
    if not path.is_file():
        raise InputError(f"no media file at {path}")
    av = _pyav()
    try:
        with av.open(str(path)) as container:
            video = container.streams.video
            if senses.video and not video:
                raise InputError(f"{path} has no video track, or is cut off; give a whole film")
            if sound == "required" and not container.streams.audio:
                raise InputError(f"{path} has no sound; give another file, or --mic none")
            read = _Reader(container, senses, start_s, duration_s, with_sound=sound != "none")
            read.run()
            if read.is_cut_off:
                raise InputError(f"{path} is cut off: it ends long before its header says")
    except av.error.FFmpegError as error:
        raise InputError(f"{path} cannot be decoded, it is cut off or no media: {error}") from error
    whole = _whole_steps(path, read, senses)
    if whole.samples is not None and not np.isfinite(whole.samples).all():
        raise InputError(f"the sound of {path} holds NaN or infinite samples; mend or replace it")
    return whole


def _pyav() -> Any:  # noqa: ANN401  (PyAV has no usable stubs for its error tree)
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("PyAV", "sensors") from error
    av.logging.set_level(av.logging.PANIC)  # failures reach us as exceptions
    return av


class _Reader:
    """Decodes both tracks in one pass, holding no more than the fitted frames and the samples."""

    def __init__(
        self,
        container: Any,  # noqa: ANN401
        senses: Senses,
        start_s: float,
        duration_s: float | None,
        *,
        with_sound: bool,
    ) -> None:
        import av

        self.senses, self.start_s = senses, start_s
        # One for all: a frame's own starts threads anew, 6 ms for a picture of 96 x 96.
        self.converter: Any = av.video.reformatter.VideoReformatter()
        self.end_s = None if duration_s is None else start_s + duration_s
        self.container = container
        self.video = container.streams.video[0] if senses.video else None
        hears = with_sound and senses.audio and container.streams.audio
        self.audio = container.streams.audio[0] if hears else None
        self.frames: list[Frames] = []
        self.pieces: list[tuple[int, FloatArray]] = []
        self._held: Frames | None = None
        self._last_s = self._frame_s = 0.0
        self._audio_s: float | None = None
        begins = [
            s.start_time * s.time_base for s in (self.video, self.audio) if s and s.start_time
        ]
        self.origin_s = (
            float(min(begins)) if len(begins) == bool(self.video) + bool(self.audio) else 0.0
        )
        if self.audio and senses.audio:
            self.resampler = av.AudioResampler("flt", "mono", senses.audio.sample_rate)

    def run(self) -> None:
        """Reads to the end of the file or of the wanted part."""
        streams = [stream for stream in (self.video, self.audio) if stream]
        for frame in self.container.decode(*streams):
            if hasattr(frame, "samples"):
                self._hear(frame)
            else:
                self._see(frame)
            if self.end_s is not None and self._past_end():
                break
        self._finish()

    @property
    def is_cut_off(self) -> bool:
        """Whether the file ended well before the length in its header (Matroska tells no more)."""
        announced: int | None = self.container.duration
        streams = (self.video, self.audio)
        if (
            self.end_s is not None
            or announced is None
            or len(self.container.streams) != sum(map(bool, streams))
        ):
            return False
        end_s = self.origin_s + max(self._last_s, self._audio_s or 0.0)
        return end_s < float(announced) / 1e6 - _HEADER_SLACK_S

    def _past_end(self) -> bool:
        assert self.end_s is not None
        heard = self.audio is None or (self._audio_s or 0.0) >= self.end_s
        return heard and (self.video is None or self._frame_s >= self.end_s)

    def _see(self, frame: Any) -> None:  # noqa: ANN401
        assert self.senses.video
        shown_s = float(frame.time or 0.0) - self.origin_s
        self._frame_s = shown_s
        self._emit_until(shown_s)
        self._last_s = shown_s + float(frame.duration or 0) * float(frame.time_base)
        if self.end_s is None or shown_s < self.end_s:
            rgb = self.converter.reformat(frame, format="rgb24").to_ndarray()
            self._held = fit_frame(rgb, self.senses.video)

    def _emit_until(self, end_s: float) -> None:
        """Repeats the held frame for every tick before `end_s`."""
        assert self.senses.video
        if self._held is None:
            return
        while self.start_s + len(self.frames) / self.senses.video.fps < end_s - _TRACK_END / 2:
            self.frames.append(self._held)

    def _hear(self, frame: Any) -> None:  # noqa: ANN401
        assert self.senses.audio
        rate = self.senses.audio.sample_rate
        if self._audio_s is None:
            began = frame.time if frame.time is not None else self.origin_s
            self._audio_s = float(began) - self.origin_s
            self._placed = round((self._audio_s - self.start_s) * rate)
        if frame.time is not None:
            expected = self._placed + round(frame.samples * rate / frame.sample_rate)
            actual = round((float(frame.time) - self.origin_s - self.start_s) * rate)
            if abs(actual - self._placed) > rate // 50 and expected:
                self._placed = actual
        frame.pts = None  # the resampler must not stretch; placement is ours
        for piece in self.resampler.resample(frame):
            self._place(piece)

    def _place(self, piece: Any) -> None:  # noqa: ANN401
        samples = piece.to_ndarray().reshape(-1).astype(np.float32)
        self.pieces.append((self._placed, samples))
        self._placed += len(samples)
        assert self.senses.audio
        self._audio_s = self.start_s + self._placed / self.senses.audio.sample_rate

    def _finish(self) -> None:
        if self.video:
            end = self._last_s if self.end_s is None else min(self.end_s, self._last_s)
            self._emit_until(end)
        if self.audio and self._audio_s is not None:
            for piece in self.resampler.resample(None):
                self._place(piece)

    def samples(self, count: int) -> FloatArray | None:
        """The sound as one array of `count` samples from the start on; None without any."""
        if self.audio is None:
            return None
        out = np.zeros(count, np.float32)
        for at, piece in self.pieces:
            begin, end = max(at, 0), min(at + len(piece), count)
            if end > begin:
                out[begin:end] = piece[begin - at : end - at]
        return out

    @property
    def samples_end(self) -> int:
        """Where the last sample lies."""
        return max((at + len(piece) for at, piece in self.pieces), default=0)


def _whole_steps(path: Path, read: _Reader, senses: Senses) -> Recording:
    if senses.video:
        steps = len(read.frames) // FRAMES_PER_STEP
    else:
        steps = read.samples_end // senses.samples_per_step
    if steps == 0:
        raise InputError(
            f"{path} is shorter than one step ({senses.step_s:.2f} s) from {read.start_s:.2f} s on"
        )
    shape = (0, 0, 0, 3)
    frames = np.stack(read.frames[: steps * FRAMES_PER_STEP]) if senses.video else np.zeros(shape)
    return Recording(
        name=path.name,
        frames=frames.astype(np.uint8),
        samples=read.samples(steps * senses.samples_per_step) if senses.audio else None,
    )
