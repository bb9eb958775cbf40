"""Steps from live cameras and microphones: the newest whole step wins, the others are counted."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from threading import Condition

import msgspec
import numpy as np

from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, Senses
from jepa_edge.media.features import Frames
from jepa_edge.runtimes import capture_gst, capture_pi, capture_sound
from jepa_edge.runtimes.capture import Capture, Capturing
from jepa_edge.runtimes.sources import NO_MIC, StepData, heard_in, seen

KEPT_S = 4.0
LATE_S = 0.3
"""How much later than its end a step may arrive before its absence is reported."""
GAPS, LEARNT, STALLED_S = 64, 8, 0.5
"""How many gaps between what a device gives are remembered, and from which length on none is."""
NEVER_NS = 1 << 62
JUMP_S = 0.02
"""Sound this far from where the last piece ended is a gap, not jitter."""


class LiveSource:
    """One camera, one microphone (often the same stream), one clock.

    Step s is what was sensed in ``[s, s + 1)`` steps since the start, with the frames held as in a
    file (see `read_recording`). A step without data comes as one with a `fault`, and so does, once,
    one of which a sense gives nothing for `stall_s`, before it is over (0: never so early).
    """

    def __init__(self, camera: str, mic: str, senses: Senses, stall_s: float = 0.0) -> None:
        self.senses = senses
        self._pulses = {"camera": Arrivals(stall_s), "microphone": Arrivals(stall_s)}
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
        kinds: dict[str, Callable[[str, Senses, LiveSource], Capturing]] = {
            capture_gst.SCHEME: capture_gst.GstCapture,
            capture_pi.SCHEME: capture_pi.PiCapture,
            capture_sound.SCHEME: capture_sound.SoundCapture,
        }
        kind = next((kinds[scheme] for scheme in kinds if uri.startswith(scheme)), Capture)
        return kind(uri, senses, self)

    def see(self, captured_ns: int, frame: Frames) -> None:
        """See `Receiver.see`."""
        with self._arrived:
            self._pulses["camera"].note(time.monotonic_ns())
            self._frames.append((captured_ns, frame))
            while captured_ns - self._frames[0][0] > KEPT_S * 1e9:
                self._frames.popleft()
            self._arrived.notify_all()

    def hear(self, captured_ns: int, samples: FloatArray) -> None:
        """See `Receiver.hear`."""
        with self._arrived:
            self._pulses["microphone"].note(time.monotonic_ns())
            self._sound.add((captured_ns - self.began_ns) / 1e9, samples)
            self._arrived.notify_all()

    def steps(self) -> Iterator[StepData]:
        """One for each step of time, or for the newest when several passed; until `close`."""
        last, well = -1, False
        while True:
            with self._arrived:
                self._wait(last, watchful=well)
                if self._closed:
                    return
                newest = max(self._newest(), last + 1)
                ready = self._newest() > last
                step = self._step(newest, newest - last - 1, "" if ready else self._stalled())
            yield step
            last, well = newest, not step.fault

    def _wait(self, last: int, *, watchful: bool) -> None:
        """Until a step after `last` is whole, or late, or (`watchful`) a sense falls silent."""
        due_ns = self.began_ns + (last + 2) * self.step_ns + round(LATE_S * 1e9)
        while not (self._closed or self._newest() > last):
            silent_ns = [pulse.silent_ns for pulse in self._pulses.values()] if watchful else []
            left_ns = min([due_ns, *silent_ns]) - time.monotonic_ns()
            if left_ns <= 0:
                return
            self._arrived.wait(left_ns / 1e9)

    def _stalled(self) -> str:
        """Which sense has fallen silent; empty for none."""
        now_ns = time.monotonic_ns()
        for device, pulse in self._pulses.items():
            if now_ns >= pulse.silent_ns:
                return self._told(device, f"nothing for {pulse.limit_s:.2f} s")
        return ""

    def close(self) -> None:
        """Ends `steps` and lets go of the devices."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()
        for capture in self.captures:
            capture.close()

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

    def _step(self, index: int, dropped: int, stalled: str) -> StepData:
        frames = self._seen(index) if self.senses.video else np.zeros((0, 0, 0, 3), np.uint8)
        count = self.senses.samples_per_step
        heard = self._sound.cut(index * count, count) if self._mic else None
        fault = stalled or self._fault(index, frames)
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


class Arrivals:
    """When a device last gave something, and how long it usually takes to give more."""

    def __init__(self, stall_s: float) -> None:
        self.stall_s = stall_s
        self._last_ns = 0
        self._gaps_s: deque[float] = deque(maxlen=GAPS)

    def note(self, now_ns: int) -> None:
        """It gave something. The gap of a stall or a reconnect says nothing of what is usual."""
        gap_s = (now_ns - self._last_ns) / 1e9
        if gap_s < STALLED_S:
            self._gaps_s.append(gap_s)
        self._last_ns = now_ns

    @property
    def limit_s(self) -> float:
        """How long it may give nothing: `stall_s`, or twice its longest gap of late."""
        return max(self.stall_s, 2 * max(self._gaps_s, default=0.0))

    @property
    def silent_ns(self) -> int:
        """From when on it counts as silent; never while it is not known how it gives."""
        if self.stall_s == 0 or len(self._gaps_s) < LEARNT:
            return NEVER_NS
        return self._last_ns + round(self.limit_s * 1e9)


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
