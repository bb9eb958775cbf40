"""One live device or stream, read in its own thread, on the monotonic clock, reopened if it breaks.

The clock follows openpilot's rule (``common/realtime.py``): everything carries the monotonic time
at which it was sensed, never the wall clock, and never the time at which somebody looked at it.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol
from urllib.parse import parse_qsl

import numpy as np

from jepa_edge.contract import FloatArray, InputError, MissingExtraError, Senses, WrongUseError
from jepa_edge.media.features import Frames, fit_frame

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 2.0
RETRY_S, RETRY_MOST_S = 0.5, 8.0
ALSA_SETTINGS = Path("/usr/share/alsa/alsa.conf")
SETTINGS = {
    "v4l2": ("video_size", "framerate", "input_format"),
    "alsa": ("channels", "sample_rate"),
}
"""What a device may be asked for after a ``?``; FFmpeg's names."""
HEARD_S = 0.01
"""Sound is handed on in pieces of at least this: ALSA's may be of a millisecond."""
SLEW = 500e-6
"""How much a device's clock may drift from ours: ten times what cheap crystals do."""


class Receiver(Protocol):
    """Takes what a capture senses."""

    def see(self, captured_ns: int, frame: Frames) -> None:
        """Takes `frame [H, W, 3]`."""

    def hear(self, captured_ns: int, samples: FloatArray) -> None:
        """Takes mono `samples [n]`, the first of which was heard at `captured_ns`."""


class Capturing(Protocol):
    """Senses in the background until it is closed; `trouble` says what is wrong just now."""

    uri: str
    senses: Senses
    trouble: str

    def start(self) -> None:
        """Begins."""

    def close(self) -> None:
        """Ends."""


class Backoff:
    """How long to wait before a device is opened again: twice as long each time, up to a limit."""

    def __init__(self) -> None:
        self._s = RETRY_S

    def next_s(self) -> float:
        """The wait that is due now."""
        now, self._s = self._s, min(2 * self._s, RETRY_MOST_S)
        return now

    def reset(self) -> None:
        """It works again."""
        self._s = RETRY_S


class StreamClock:
    """Stream time → monotonic time: the least delay seen is taken for the delay of the device.

    What arrives later than that waited in a buffer, and its age says so.
    """

    def __init__(self) -> None:
        self._offset_ns: float | None = None
        self._arrived_ns = 0
        self._latest_s = 0.0

    def captured_ns(self, begin_s: float | None, arrived_ns: int, lasts_s: float = 0.0) -> int:
        """When something began that arrived, complete, at `arrived_ns`; `begin_s` is its pts."""
        if begin_s is None:  # the first packets of RTSP have none
            return arrived_ns - round(lasts_s * 1e9)
        offset = arrived_ns - (begin_s + lasts_s) * 1e9
        if self._offset_ns is None or begin_s < self._latest_s - 1.0:  # began anew
            self._offset_ns = offset
        drift = (arrived_ns - self._arrived_ns) * SLEW
        self._offset_ns = min(offset, self._offset_ns + drift)
        self._arrived_ns, self._latest_s = arrived_ns, begin_s
        return round(begin_s * 1e9 + self._offset_ns)


class CaptureThread(ABC):
    """A thread that reads `uri` until `close`; `trouble` says what broke it, until it heals.

    What is opened before the thread begins is its first source: what is wrong is told at once.
    """

    def __init__(self, uri: str, senses: Senses, to: Receiver) -> None:
        self.uri, self.senses, self.to = uri, senses, to
        self.trouble = ""
        self._stop = Event()
        first = self._open()
        self._thread = Thread(target=self._run, args=(first,), name=f"capture {uri}", daemon=True)

    def start(self) -> None:
        """Begins to read."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread; a device that never answers is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(READ_TIMEOUT_S + 1.0)

    @abstractmethod
    def _open(self) -> Any:  # noqa: ANN401  (no library of devices has stubs)
        """The device, ready to be read. Raises `InputError` if that cannot be."""

    @abstractmethod
    def _run(self, first: Any) -> None:  # noqa: ANN401
        """Reads `first`, and what `_open` gives after it broke, until `_stop`."""


class Capture(CaptureThread):
    """Reads with FFmpeg."""

    def _open(self) -> Any:  # noqa: ANN401  (PyAV has no usable stubs)
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("PyAV", "sensors") from error
        name, format_, options = address(self.uri)
        if format_ == "alsa":
            find_alsa_settings()
        timeout = (OPEN_TIMEOUT_S, READ_TIMEOUT_S)
        try:
            container = av.open(name, format=format_, options=options, timeout=timeout)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"cannot open {redacted(self.uri)}: {redacted(str(error))}; check that it is there "
                "and nobody else uses it, or play a media file instead"
            ) from error
        missing = [
            what
            for what, wanted, there in (
                ("video", self.senses.video, container.streams.video),
                ("sound", self.senses.audio, container.streams.audio),
            )
            if wanted and not there
        ]
        if missing:
            container.close()
            raise InputError(
                f"{redacted(self.uri)} has no {' and no '.join(missing)}; "
                "name another --camera or --mic, or --mic none"
            )
        return container

    def _run(self, container: Any) -> None:  # noqa: ANN401
        import av

        wait = Backoff()
        while not self._stop.is_set():
            try:
                with container or self._open() as opened:
                    self._read(opened, wait)
                self.trouble = "it ended"
            except (av.error.FFmpegError, OSError, InputError) as error:
                self.trouble = redacted(str(error))
            container = None
            self._stop.wait(wait.next_s())

    def _read(self, container: Any, wait: Backoff) -> None:  # noqa: ANN401
        import av

        streams = [container.streams.video[0]] if self.senses.video else []
        if self.senses.audio:
            streams.append(container.streams.audio[0])
            resampler = av.AudioResampler("flt", "mono", self.senses.audio.sample_rate)
        clock = StreamClock()
        heard: list[FloatArray] = []
        began_ns, heard_s = 0, 0.0
        for frame in container.decode(*streams):
            if self._stop.is_set():
                return
            arrived_ns = time.monotonic_ns()
            self.trouble = ""
            wait.reset()
            if isinstance(frame, av.VideoFrame):
                assert self.senses.video
                rgb: Frames = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                fitted = fit_frame(rgb, self.senses.video)
                self.to.see(clock.captured_ns(frame.time, arrived_ns), fitted)
                continue
            lasts_s = frame.samples / frame.sample_rate
            captured_ns = clock.captured_ns(frame.time, arrived_ns, lasts_s)
            began_ns = began_ns if heard else captured_ns
            frame.pts = None  # placement is ours, the resampler must not stretch
            pieces = resampler.resample(frame)
            heard.extend(np.asarray(p.to_ndarray().reshape(-1), np.float32) for p in pieces)
            heard_s += lasts_s
            if heard and heard_s >= HEARD_S:
                self.to.hear(began_ns, np.concatenate(heard))
                heard, heard_s = [], 0.0


def find_alsa_settings() -> None:
    """Tells ALSA where the system keeps its settings: PyAV's wheels look where they were built.

    Without them no card opens. Raises `InputError` if the system has none.
    """
    if "ALSA_CONFIG_PATH" in os.environ:
        return
    if not ALSA_SETTINGS.exists():
        raise InputError(
            f"ALSA's settings are missing ({ALSA_SETTINGS}): apt install libasound2-data, or set "
            "ALSA_CONFIG_PATH to the alsa.conf of this system"
        )
    os.environ["ALSA_CONFIG_PATH"] = str(ALSA_SETTINGS)


def redacted(text: str) -> str:
    """`text` with user names and passwords of addresses taken out."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def address(uri: str) -> tuple[str, str | None, dict[str, str]]:
    """What FFmpeg calls `uri`: name, input format (None: it tells by itself), options.

    Raises `WrongUseError` for a setting (``?NAME=VALUE&…``) that the device does not have.
    """
    if uri.startswith("lavfi:"):
        return uri.removeprefix("lavfi:"), "lavfi", {}
    kind = "v4l2" if uri.startswith("/dev/") else "alsa" if uri.startswith("alsa:") else None
    if kind is None:
        low_delay = {"fflags": "nobuffer", "flags": "low_delay"}
        return uri, None, low_delay | ({"rtsp_transport": "tcp"} if uri.startswith("rtsp") else {})
    name, _, query = uri.removeprefix("alsa:").partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    for setting, value in settings.items():
        if setting not in SETTINGS[kind] or not value:
            raise WrongUseError(
                f"{uri}: {setting}={value} is no setting of such a device; it has "
                f"{', '.join(SETTINGS[kind])}"
            )
    return name, kind, settings
