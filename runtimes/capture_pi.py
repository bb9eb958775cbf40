"""A Raspberry Pi's own camera, through libcamera's Python: ``picamera2:0``.

Python's ``picamera2`` belongs to the system (``apt-get install python3-picamera2``): it is bound to
the libcamera of Raspberry Pi OS. Picamera2 Manual, sections 4 and 6; not run where there is no Pi.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from jepa_edge.contract import InputError, Senses, WrongUseError
from jepa_edge.media.features import Frames, fit_frame
from jepa_edge.runtimes.capture import READ_TIMEOUT_S, Backoff, CaptureThread, Receiver
from jepa_edge.runtimes.capture_gst import SYSTEM_PACKAGES

SCHEME = "picamera2:"
SIZE, RATE_HZ = (640, 480), 30.0
FORMAT = "BGR888"
"""libcamera names the bytes from the last to the first: in memory this one is R, G, B."""


class PiCapture(CaptureThread):
    """Like `Capture`, for one camera. Frames carry the time at which their first row was exposed.

    Raises:
        InputError: picamera2 or the camera is not there.
        WrongUseError: no number of a camera, or it is to be heard.
    """

    def __init__(self, uri: str, senses: Senses, to: Receiver) -> None:
        number = uri.removeprefix(SCHEME) or "0"
        if not number.isdigit():
            raise WrongUseError(f"{uri}: give the camera's number, as {SCHEME}0")
        if senses.audio:
            raise WrongUseError(f"{uri} has no microphone; name one with --mic, or --mic none")
        self.number, self._maker = int(number), _picamera2()
        super().__init__(uri, senses, to)

    def _open(self) -> Any:  # noqa: ANN401  (picamera2 has no stubs)
        try:
            camera = self._maker(self.number)
            camera.configure(
                camera.create_video_configuration(
                    main={"size": SIZE, "format": FORMAT}, controls={"FrameRate": RATE_HZ}
                )
            )
            camera.start()
        except (RuntimeError, IndexError, OSError) as error:
            raise InputError(
                f"cannot open {self.uri}: {error}; rpicam-hello --list-cameras shows what is there"
            ) from error
        return camera

    def _run(self, camera: Any) -> None:  # noqa: ANN401
        wait = Backoff()
        while not self._stop.is_set():
            try:
                camera = camera or self._open()
                self._read(camera, wait)
            except (InputError, RuntimeError, OSError, TimeoutError) as error:
                self.trouble = str(error) or "no frame came in time"
            if camera is not None:
                camera.close()
            camera = None
            self._stop.wait(wait.next_s())

    def _read(self, camera: Any, wait: Backoff) -> None:  # noqa: ANN401
        assert self.senses.video
        while not self._stop.is_set():
            request = camera.capture_request(wait=READ_TIMEOUT_S)
            try:
                rgb: Frames = np.asarray(request.make_array("main"), np.uint8)
                exposed_ns = request.get_metadata().get("SensorTimestamp")
            finally:
                request.release()
            self.trouble = ""
            wait.reset()
            self.to.see(monotonic_from_boot(exposed_ns), fit_frame(rgb, self.senses.video))


def monotonic_from_boot(boot_ns: int | None) -> int:
    """The monotonic time of libcamera's `boot_ns` (CLOCK_BOOTTIME); now for None."""
    now_ns = time.monotonic_ns()
    if boot_ns is None:
        return now_ns
    return min(now_ns, boot_ns - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - now_ns))


def _picamera2() -> Any:  # noqa: ANN401
    if SYSTEM_PACKAGES not in sys.path:
        sys.path.append(SYSTEM_PACKAGES)  # last: only what nothing else offers is taken from there
    try:
        from picamera2 import Picamera2
    except ImportError as error:
        raise InputError(
            f"{SCHEME} needs Raspberry Pi OS's picamera2: apt-get install python3-picamera2"
        ) from error
    return Picamera2
