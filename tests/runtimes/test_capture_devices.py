"""Picamera2 and PortAudio: what can be tried without a Pi and a sound card.

That picamera2 captures has not been run on a Pi; `test_device_vm.py` hears a card with PortAudio.
"""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from jepa_edge.contract import AudioSpec, InputError, Senses, VideoSpec, WrongUseError
from jepa_edge.runtimes import capture_pi, capture_sound
from jepa_edge.runtimes.live import LiveSource
from jepa_edge.runtimes.sources import is_live

SEES = Senses(video=VideoSpec(height=16, width=16), audio=None)
HEARS = Senses(video=None, audio=AudioSpec(mel_bins=8))


def test_both_are_live_and_reach_their_capture_through_a_source():
    assert is_live("picamera2:0")
    assert is_live("sounddevice:")
    with pytest.raises(InputError, match="python3-picamera2|cannot open picamera2:0"):
        LiveSource("picamera2:0", "none", SEES)
    with pytest.raises(InputError, match="python -m sounddevice|libportaudio2"):
        LiveSource("none", "sounddevice:no such microphone", HEARS)


def test_one_sense_each():
    both = Senses(video=SEES.video, audio=HEARS.audio)
    with pytest.raises(WrongUseError, match="no microphone"):
        capture_pi.PiCapture("picamera2:0", both, None)
    with pytest.raises(WrongUseError, match="camera's number"):
        capture_pi.PiCapture("picamera2:front", SEES, None)
    with pytest.raises(WrongUseError, match="of its own"):
        capture_sound.SoundCapture("sounddevice:", both, None)


def test_the_time_of_exposure_is_on_the_monotonic_clock():
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - 40_000_000
    age_ns = time.monotonic_ns() - capture_pi.monotonic_from_boot(boot_ns)
    assert 40e6 <= age_ns < 2e9
    assert abs(time.monotonic_ns() - capture_pi.monotonic_from_boot(None)) < 2e9


class Ear:
    def hear(self, captured_ns, samples):
        self.age_ms, self.samples = (time.monotonic_ns() - captured_ns) / 1e6, samples


@pytest.mark.parametrize(("told_s", "age_ms"), [(0.05, 50), (0.0, 20), (1e6, 20)])
def test_a_block_is_as_old_as_the_converter_says_or_as_it_is_long(told_s, age_ms):
    from threading import Event

    capture = object.__new__(capture_sound.SoundCapture)  # there is no device to open
    capture.to, capture.rate, capture._heard = Ear(), 16_000, Event()
    lent = np.full((320, 1), 0.25, np.float32)
    at = SimpleNamespace(currentTime=told_s, inputBufferAdcTime=0.0)
    capture._take(lent, 320, at, None)
    lent[:] = 0  # the block is only lent
    assert age_ms <= capture.to.age_ms < age_ms + 1000
    assert (capture.to.samples == 0.25).all()
    assert capture._heard.is_set()
