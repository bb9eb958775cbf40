"""A microphone through PortAudio: ``sounddevice:NAME``, its number, or nothing for the default.

PortAudio gives what ALSA's own node does not: the moment at which the converter heard a block.
"""

from __future__ import annotations

import time
from threading import Event
from typing import Any

import numpy as np

from jepa_edge.contract import FloatArray, InputError, MissingExtraError, Senses, WrongUseError
from jepa_edge.runtimes.capture import READ_TIMEOUT_S, Backoff, CaptureThread, Receiver

SCHEME = "sounddevice:"
BLOCK_S, LONGEST_S = 0.02, 1.0


class SoundCapture(CaptureThread):
    """Like `Capture`, for one microphone.

    Raises:
        InputError: PortAudio or the microphone is not there.
        WrongUseError: it is to be seen.
    """

    def __init__(self, uri: str, senses: Senses, to: Receiver) -> None:
        if senses.video or senses.audio is None:
            raise WrongUseError(f"{uri} is a microphone; name a --camera of its own")
        self.rate = senses.audio.sample_rate
        name = uri.removeprefix(SCHEME)
        self.device: str | int | None = int(name) if name.isdigit() else name or None
        self._library = _sounddevice()
        self._heard = Event()
        super().__init__(uri, senses, to)

    def _open(self) -> Any:  # noqa: ANN401  (sounddevice has no stubs)
        try:
            return self._library.InputStream(
                samplerate=self.rate,
                blocksize=round(BLOCK_S * self.rate),
                device=self.device,
                channels=1,
                dtype="float32",
                latency="low",
                callback=self._take,
            )
        except (self._library.PortAudioError, ValueError) as error:
            raise InputError(
                f"cannot open {self.uri}: {error}; python -m sounddevice lists what is there"
            ) from error

    def _run(self, stream: Any) -> None:  # noqa: ANN401
        wait = Backoff()
        while not self._stop.is_set():
            try:
                with stream or self._reopened():
                    self._listen(wait)
            except (InputError, self._library.PortAudioError) as error:
                self.trouble = str(error)
            stream = None
            self._stop.wait(wait.next_s())

    def _reopened(self) -> Any:  # noqa: ANN401
        """PortAudio knows only the devices that were there when it began: it begins anew."""
        self._library._terminate()
        self._library._initialize()
        return self._open()

    def _listen(self, wait: Backoff) -> None:
        """Until the device gives nothing for `READ_TIMEOUT_S`, or `close`."""
        while not self._stop.is_set():
            self._heard.clear()
            if not self._heard.wait(READ_TIMEOUT_S):
                self.trouble = "no sound came"
                return
            self.trouble = ""
            wait.reset()

    def _take(self, block: FloatArray, _frames: int, at: Any, _status: object) -> None:  # noqa: ANN401
        """In PortAudio's own thread: `block [n, 1]`, lent for the call."""
        since_s, lasts_s = at.currentTime - at.inputBufferAdcTime, len(block) / self.rate
        if not lasts_s <= since_s <= LONGEST_S:  # some drivers do not tell, or tell 0
            since_s = lasts_s
        captured_ns = time.monotonic_ns() - round(since_s * 1e9)
        self.to.hear(captured_ns, np.array(block[:, 0]))
        self._heard.set()


def _sounddevice() -> Any:  # noqa: ANN401
    try:
        import sounddevice
    except ImportError as error:
        raise MissingExtraError("sounddevice", "mic") from error
    except OSError as error:
        raise InputError(f"{error}: apt-get install libportaudio2") from error
    return sounddevice
