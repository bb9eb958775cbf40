"""Decoding, against files whose content says when it was shown and heard."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jepa_edge.contract import FRAMES_PER_STEP, InputError, Senses, VideoSpec
from jepa_edge.media import decode
from tests.media.recorder import number_of, record

SENSES = Senses(video=VideoSpec(height=64, width=64))
DEAF = Senses(video=VideoSpec(height=64, width=64), audio=None)
EVEN_MS = np.arange(60) * 1000 // 30


def read_recording(path, senses, **options):
    return decode.read_recording(path, senses, **options)


def noise(seconds, rate=16_000):
    return (np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * rate))).astype(np.float32)


def numbers(recording):
    return [number_of(frame) for frame in recording.frames]


def shown_at(shown_ms, count, start_s=0.0):
    """The oracle: the last picture whose time is not after each tick of 10 a second."""
    first = shown_ms[0]
    ticks = [round(start_s * 1000) + 100 * k for k in range(count)]
    return [max([n for n, at in enumerate(shown_ms) if at - first <= t], default=0) for t in ticks]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_each_frame_is_the_one_shown_at_its_time(tmp_path, suffix):
    path = record(tmp_path / f"even.{suffix}", EVEN_MS)
    recording = read_recording(path, DEAF)
    assert numbers(recording) == shown_at(EVEN_MS, 20)
    assert recording.name == f"even.{suffix}"
    assert recording.samples is None


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    gaps=st.lists(st.integers(4, 350), min_size=12, max_size=60),
    first=st.sampled_from([0, 40, 1500]),
    start_s=st.sampled_from([0.0, 0.2, 0.45]),
)
def test_variable_frame_rates_follow_the_timestamps(tmp_path, gaps, first, start_s):
    shown_ms = first + np.cumsum([0, *gaps])
    path = record(tmp_path / "uneven.mkv", shown_ms)
    lasts_s = (shown_ms[-1] - first) / 1000 - start_s
    if lasts_s < 0.2:
        return
    read = numbers(read_recording(path, DEAF, start_s=start_s))
    assert read == shown_at(shown_ms, len(read), start_s)
    assert len(read) % FRAMES_PER_STEP == 0
    assert len(read) >= int(lasts_s * 10) // 2 * 2


def test_a_part_is_cut_from_the_same_timeline(tmp_path):
    path = record(tmp_path / "a.mp4", EVEN_MS, noise(2.0))
    whole = read_recording(path, SENSES)
    part = read_recording(path, SENSES, start_s=0.6, duration_s=0.8)
    np.testing.assert_array_equal(part.frames, whole.frames[6:14])
    np.testing.assert_allclose(part.samples, whole.samples[9_600:22_400], atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "rate"), [("mp4", 48_000), ("mp4", 16_000), ("mkv", 44_100), ("mkv", 16_000)]
)
def test_flash_and_click_coincide(tmp_path, suffix, rate):
    """A click in the middle of a second, when the picture changes from 15 to 16."""
    sound = np.zeros(2 * rate, np.float32)
    sound[round(16 / 30 * rate) : round(16 / 30 * rate) + rate // 500] = 0.9
    path = record(tmp_path / f"clap.{suffix}", EVEN_MS, sound, rate=rate)
    fine = Senses(video=VideoSpec(fps=50.0, height=64, width=64), steps_per_second=25.0)
    recording = read_recording(path, fine)
    flash_s = next(k for k, n in enumerate(numbers(recording)) if n >= 16) / 50
    click_s = np.flatnonzero(np.abs(recording.samples) > 0.3)[0] / 16_000
    assert flash_s == 0.54  # the first tick of 50 a second after 16/30 s
    assert abs(click_s - 16 / 30) < 1e-3


@pytest.mark.parametrize("late_ms", [0, 300, 740])
def test_sound_that_begins_later_is_silent_until_then(tmp_path, late_ms):
    path = record(tmp_path / "late.mkv", EVEN_MS, noise(0.8), sound_ms=late_ms)
    samples = read_recording(path, SENSES).samples
    begin = late_ms * 16
    assert not samples[:begin].any()
    np.testing.assert_allclose(samples[begin : begin + 12_800], noise(0.8), atol=1e-4)
    assert not samples[begin + 12_800 :].any()


def test_pictures_that_begin_later_keep_the_sound_in_place(tmp_path):
    path = record(tmp_path / "late.mkv", EVEN_MS + 500, noise(2.0))
    recording = read_recording(path, SENSES)
    np.testing.assert_allclose(recording.samples[:16_000], noise(2.0)[:16_000], atol=1e-4)
    assert numbers(recording)[5:9] == [0, 3, 6, 9]


def test_a_gap_in_the_sound_is_silence_and_the_rest_stays_in_place(tmp_path):
    packet = 4_608  # of FLAC: its encoder would fill the gap with what comes after
    piece = noise(1.0)[: 2 * packet]
    path = record(tmp_path / "gap.mkv", EVEN_MS, [(0, piece), (1_000, piece)])
    samples = read_recording(path, SENSES).samples
    np.testing.assert_allclose(samples[: 2 * packet], piece, atol=1e-4)
    assert not samples[2 * packet : 16_000].any()
    np.testing.assert_allclose(samples[16_000 : 16_000 + 2 * packet], piece, atol=1e-4)


def test_stereo_and_other_rates_become_mono_at_the_models_rate(tmp_path):
    at_s = np.arange(96_000) / 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * at_s)).astype(np.float32)
    samples = read_recording(record(tmp_path / "a.mkv", EVEN_MS, tone, rate=48_000), SENSES).samples
    assert len(samples) == 32_000
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(32_000) / 16_000)
    assert np.abs(samples - expected)[100:-100].max() < 2e-3


def test_frames_and_samples_cover_the_same_whole_steps(tmp_path):
    recording = read_recording(record(tmp_path / "a.mp4", EVEN_MS[:50], noise(3.0)), SENSES)
    assert len(recording.frames) == 16
    assert len(recording.samples) == 8 * SENSES.samples_per_step


def test_a_microphone_may_be_a_file_of_sound_alone(tmp_path):
    path = record(tmp_path / "sound.mkv", sound=noise(1.0))
    heard = read_recording(path, Senses(video=None, audio=SENSES.audio), sound="required")
    np.testing.assert_allclose(heard.samples, noise(1.0), atol=1e-4)
    with pytest.raises(InputError, match="no video track"):
        read_recording(path, SENSES)


def test_missing_sound_is_told_or_allowed(tmp_path):
    path = record(tmp_path / "mute.mp4", EVEN_MS)
    assert read_recording(path, SENSES).samples is None
    assert not read_recording(path, SENSES).has_sound
    with pytest.raises(InputError, match=r"has no sound.*--mic none"):
        read_recording(path, SENSES, sound="required")
    hushed = record(tmp_path / "loud.mp4", EVEN_MS, noise(2.0))
    assert read_recording(hushed, SENSES, sound="none").samples is None


def test_a_missing_file_a_folder_and_a_text_are_refused(tmp_path):
    with pytest.raises(InputError, match="no media file at"):
        read_recording(tmp_path / "none.mp4", SENSES)
    with pytest.raises(InputError, match="no media file at"):
        read_recording(tmp_path, SENSES)
    (tmp_path / "text.mp4").write_text("this is no film " * 500)
    with pytest.raises(InputError, match="cannot be decoded"):
        read_recording(tmp_path / "text.mp4", SENSES)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(InputError, match="cannot be decoded"):
        read_recording(tmp_path / "empty.mp4", SENSES)


@pytest.mark.parametrize("movflags", ["default_base_moof", "faststart"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(tmp_path, kept, movflags):
    path = record(tmp_path / "whole.mp4", EVEN_MS, noise(2.0), movflags=movflags)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(InputError, match="cut off"):
        read_recording(path, SENSES)


@pytest.mark.parametrize("kept", [0.5, 0.7])
def test_a_cut_off_matroska_file_is_refused(tmp_path, kept):
    path = record(tmp_path / "whole.mkv", EVEN_MS, noise(2.0))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * kept)])
    with pytest.raises(InputError, match="cut off"):
        read_recording(path, SENSES)


def test_too_short_is_told_with_the_length_that_is_needed(tmp_path):
    path = record(tmp_path / "short.mp4", EVEN_MS[:3], noise(0.1))
    with pytest.raises(InputError, match=r"shorter than one step \(0.20 s\)"):
        read_recording(path, SENSES)
    long = record(tmp_path / "long.mp4", EVEN_MS)
    with pytest.raises(InputError, match=r"from 9.00 s on"):
        read_recording(long, SENSES, start_s=9.0)
