"""Steps from live cameras and microphones: the newest whole step wins, the others are counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from threading import Condition

import msgspec
import numpy as np

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, Senses
from jepa_edge.media.features import Frames
from jepa_edge.runtimes.capture import Capture, Capturing
from jepa_edge.runtimes.capture_gst import SCHEME, GstCapture
from jepa_edge.runtimes.sources import NO_MIC, StepData, heard_in, seen

KEPT_S = 4.0
LATE_S = 0.3
"""How much later than its end a step may arrive before its absence is reported."""
JUMP_S = 0.02
"""Sound this far from where the last piece ended is a gap, not jitter."""


class LiveSource:
    """One camera, one microphone (often the same stream), one clock.

    Step s is what was sensed in ``[s, s + 1)`` steps since the start, with the frames held as in a
    file (see `read_recording`). A step without data comes as one with a `fault`.
    """

    def __init__(self, camera: str, mic: str, senses: Senses) -> None:
        self.senses = senses
        self.step_ns = round(senses.step_s * 1e9)
        self._arrived = Condition()
        self._closed = False
        self._frames: deque[tuple[int, Frames]] = deque()
        self._sound = _SoundBuffer(senses)
        self._mic = mic != NO_MIC and senses.audio is not None
        self.captures: list[Capturing] = self._captures(camera, mic)
        self.began_ns = time.monotonic_ns()
        for capture in self.captures:
            capture.start()

    def _captures(self, camera: str, mic: str) -> list[Capturing]:
        deaf = msgspec.structs.replace(self.senses, audio=None) if self.senses.video else None
        blind = msgspec.structs.replace(self.senses, video=None) if self._mic else None
        if deaf and blind and camera == mic:
            return [self._capture(camera, self.senses)]
        both = ((camera, deaf), (mic, blind))
        return [self._capture(uri, sense) for uri, sense in both if sense]

    def _capture(self, uri: str, senses: Senses) -> Capturing:
        if uri.startswith(SCHEME):
            return GstCapture(uri, senses, self)
        return Capture(uri, senses, self)

    def see(self, captured_ns: int, frame: Frames) -> None:
        """See `Receiver.see`."""
        with self._arrived:
            self._frames.append((captured_ns, frame))
            while captured_ns - self._frames[0][0] > KEPT_S * 1e9:
                self._frames.popleft()
            self._arrived.notify_all()

    def hear(self, captured_ns: int, samples: FloatArray) -> None:
        """See `Receiver.hear`."""
        with self._arrived:
            self._sound.add((captured_ns - self.began_ns) / 1e9, samples)
            self._arrived.notify_all()

    def steps(self) -> Iterator[StepData]:
        """One for each step of time, or for the newest when several passed; until `close`."""
        last = -1
        while True:
            with self._arrived:
                due_ns = self.began_ns + (last + 2) * self.step_ns + round(LATE_S * 1e9)
                left_s = max(0.0, (due_ns - time.monotonic_ns()) / 1e9)
                self._arrived.wait_for(partial(self._is_ready, last), left_s)
                if self._closed:
                    return
                newest = max(self._newest(), last + 1)
                step = self._step(newest, newest - last - 1)
            yield step
            last = newest

    def close(self) -> None:
        """Ends `steps` and lets go of the devices."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        for capture in self.captures:
            capture.close()

    def _is_ready(self, last: int) -> bool:
        return self._closed or self._newest() > last

    def _newest(self) -> int:
        """The newest step of which everything has arrived; -1 for none."""
        ends = []
        if self.senses.video:
            newest_ns = self._frames[-1][0] if self._frames else self.began_ns - 1
            frame_ns = self.step_ns // FRAMES_PER_STEP
            ends.append((newest_ns - self.began_ns + frame_ns) // self.step_ns - 1)
        if self._mic:
            ends.append(self._sound.end // self.senses.samples_per_step - 1)
        return int(max(-1, min(ends)))

    def _step(self, index: int, dropped: int) -> StepData:
        frames = self._seen(index) if self.senses.video else np.zeros((0, 0, 0, 3), np.uint8)
        count = self.senses.samples_per_step
        heard = self._sound.cut(index * count, count) if self._mic else None
        fault = self._fault(index, frames)
        video = audio = None
        if not fault and frames is not None:
            before = self._sound.cut((index - 1) * count, count) if self._mic else None
            video, audio = seen(frames, self.senses), heard_in(heard, before, self.senses)
        sensed_ns = self.began_ns + (index + 1) * self.step_ns
        if not self._mic:  # the last thing sensed is the second frame
            sensed_ns -= self.step_ns // FRAMES_PER_STEP
        return StepData(
            index=index,
            captured_ns=min(sensed_ns, time.monotonic_ns()),
            video=video,
            audio=audio,
            dropped=dropped,
            fault=fault,
        )

    def _seen(self, index: int) -> Frames | None:
        """The frames `[2, H, W, 3]` shown at the two ticks of a step; None if one is too old."""
        shown = []
        for k in range(FRAMES_PER_STEP):
            tick_ns = self.began_ns + index * self.step_ns + k * self.step_ns // FRAMES_PER_STEP
            held = next((pair for pair in reversed(self._frames) if pair[0] <= tick_ns), None)
            if held is None or tick_ns - held[0] > self.step_ns + LATE_S * 1e9:
                return None
            shown.append(held[1])
        return np.stack(shown)

    def _fault(self, index: int, frames: Frames | None) -> str:
        if self.senses.video and frames is None:
            return self._told("camera", "no frame")
        if self._mic and self._sound.end < (index + 1) * self.senses.samples_per_step:
            return self._told("microphone", "no sound")
        return ""

    def _told(self, device: str, what: str) -> str:
        capture = self.captures[0] if device == "camera" else self.captures[-1]
        why = f": {capture.trouble}" if capture.trouble else ""
        return f"{device} gives {what}{why}"


class _SoundBuffer:
    """The last seconds of sound, placed by time; gaps are zeros."""

    def __init__(self, senses: Senses) -> None:
        self.rate = senses.audio.sample_rate if senses.audio else 0
        self.end = 0
        self._kept = np.zeros(round(KEPT_S * self.rate), np.float32)  # the last one is end - 1

    def add(self, at_s: float, samples: FloatArray) -> None:
        """Takes `samples [n]` heard from `at_s` on; what overlaps the piece before is left out."""
        at = round(at_s * self.rate)
        if abs(at - self.end) <= JUMP_S * self.rate:
            at = self.end
        fresh = samples[max(0, self.end - at) :]
        gap = np.zeros(min(max(0, at - self.end), len(self._kept)), np.float32)
        if len(fresh):
            self._kept = np.concatenate((self._kept, gap, fresh))[-len(self._kept) :]
            self.end = max(self.end, at) + len(fresh)

    def cut(self, begin: int, count: int) -> FloatArray:
        """`count` samples from `begin` on; zeros where nothing was heard, or kept."""
        out = np.zeros(count, np.float32)
        first = self.end - len(self._kept)
        low, high = max(begin, first), min(begin + count, self.end)
        if high > low:
            out[low - begin : high - begin] = self._kept[low - first : high - first]
        return out
