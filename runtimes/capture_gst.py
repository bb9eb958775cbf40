"""A GStreamer pipeline as a camera or a microphone: what a Jetson's own camera needs.

``gst:nvarguscamerasrc sensor-id=0 ! nvvidconv ! video/x-raw,format=BGRx`` and the like; what ends
it (conversion, appsink that keeps the newest) is added here. Python's ``gi`` belongs to the system
(``apt-get install python3-gi``): the plugins of a board are built for its own GStreamer.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from jepa_edge.contract import InputError, Senses, WrongUseError
from jepa_edge.media.features import Frames, fit_frame
from jepa_edge.runtimes.capture import READ_TIMEOUT_S, Backoff, CaptureThread, Receiver

SCHEME = "gst:"
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
START_TIMEOUT_S = 10.0
NS = 1_000_000_000


class GstCapture(CaptureThread):
    """Like `Capture`, for one sense. Buffers carry the time of the monotonic pipeline clock.

    Raises:
        InputError: GStreamer or an element is not there, or the pipeline does not start.
        WrongUseError: one pipeline for both senses.
    """

    def __init__(self, uri: str, senses: Senses, to: Receiver) -> None:
        if senses.video and senses.audio:
            raise WrongUseError(f"{uri}: one pipeline is one sense; give another to --mic")
        self._gst = _gstreamer()
        super().__init__(uri, senses, to)

    def _open(self) -> Any:  # noqa: ANN401  (gi has no stubs)
        gst, end = self._gst, _end_of(self.senses)
        try:
            pipeline = gst.parse_launch(f"{self.uri.removeprefix(SCHEME)} ! {end}")
        except Exception as error:  # GLib.Error
            raise InputError(f"{self.uri}: GStreamer cannot make this pipeline: {error}") from error
        pipeline.use_clock(gst.SystemClock.obtain())
        pipeline.set_state(gst.State.PLAYING)
        state, _, _ = pipeline.get_state(round(START_TIMEOUT_S * NS))
        if state == gst.StateChangeReturn.FAILURE:
            told = pipeline.get_bus().pop_filtered(gst.MessageType.ERROR)
            why = told.parse_error()[0].message if told else "no reason given"
            pipeline.set_state(gst.State.NULL)
            raise InputError(f"{self.uri}: the pipeline does not start: {why}")
        return pipeline

    def _run(self, pipeline: Any) -> None:  # noqa: ANN401
        wait = Backoff()
        while not self._stop.is_set():
            try:
                pipeline = pipeline or self._open()
                self._read(pipeline, wait)
            except InputError as error:
                self.trouble = str(error)
            if pipeline is not None:
                pipeline.set_state(self._gst.State.NULL)
            pipeline = None
            self._stop.wait(wait.next_s())

    def _read(self, pipeline: Any, wait: Backoff) -> None:  # noqa: ANN401
        sink = pipeline.get_by_name("end")
        while not self._stop.is_set():
            sample = sink.emit("try-pull-sample", round(READ_TIMEOUT_S * NS))
            if sample is None:
                self.trouble = "it ended" if sink.get_property("eos") else "no data came"
                return
            self.trouble = ""
            wait.reset()
            self._take(sample, pipeline.get_base_time())

    def _take(self, sample: Any, base_ns: int) -> None:  # noqa: ANN401
        buffer = sample.get_buffer()
        known = buffer.pts != self._gst.CLOCK_TIME_NONE
        captured_ns = base_ns + buffer.pts if known else time.monotonic_ns()
        data = buffer.extract_dup(0, buffer.get_size())
        if self.senses.video is None:
            self.to.hear(captured_ns, np.frombuffer(data, np.float32))
            return
        shape = sample.get_caps().get_structure(0)
        width, height = shape.get_value("width"), shape.get_value("height")
        rows: Frames = np.frombuffer(data, np.uint8).reshape(height, -1)  # padded to 4 bytes
        frame = np.ascontiguousarray(rows[:, : 3 * width].reshape(height, width, 3))
        self.to.see(captured_ns, fit_frame(frame, self.senses.video))


def _end_of(senses: Senses) -> str:
    if senses.video:
        newest = "max-buffers=1 drop=true"
        return f"videoconvert ! video/x-raw,format=RGB ! appsink name=end sync=false {newest}"
    assert senses.audio
    caps = f"audio/x-raw,format=F32LE,channels=1,rate={senses.audio.sample_rate}"
    return f"audioconvert ! audioresample ! {caps} ! appsink name=end sync=false max-buffers=64"


def _gstreamer() -> Any:  # noqa: ANN401
    if SYSTEM_PACKAGES not in sys.path:
        sys.path.append(SYSTEM_PACKAGES)  # last: only what nothing else offers is taken from there
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError) as error:
        raise InputError(
            "gst: needs the system's GStreamer for Python: apt-get install python3-gi "
            "gir1.2-gstreamer-1.0 gstreamer1.0-plugins-base"
        ) from error
    Gst.init(None)
    return Gst
