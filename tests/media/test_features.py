"""Features, against plain loops written from the definitions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_edge.contract import AudioSpec, VideoSpec
from jepa_edge.media.features import fit_frame, log_mel, mel_filterbank, silence, video_from_frames

SPEC = AudioSpec()
STEP = 3_200
BEFORE = SPEC.window - SPEC.hop


def loud(count, seed=0):
    return np.random.default_rng(seed).uniform(-0.8, 0.8, count).astype(np.float32)


def slow_log_mel(samples, spec):
    """The definition in AudioSpec, in double precision: one frame, bin and filter at a time."""
    size = 512
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * i / spec.window) for i in range(spec.window)]
    scale = sum(hann) / 2
    mel_of = lambda hz: 2595 * math.log10(1 + hz / 700)  # noqa: E731
    low, high = mel_of(spec.f_min_hz), mel_of(spec.f_max_hz)
    edges = [
        700 * (10 ** ((low + (high - low) * i / (spec.mel_bins + 1)) / 2595) - 1)
        for i in range(spec.mel_bins + 2)
    ]
    rows = []
    for frame in range(len(samples) // spec.hop):
        end = (frame + 1) * spec.hop
        cut = [float(samples[i]) if i >= 0 else 0.0 for i in range(end - spec.window, end)]
        windowed = np.array(cut) * np.array(hann) / scale
        turns = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(400)) / size)
        power = np.abs(turns @ windowed) ** 2
        row = []
        for m in range(spec.mel_bins):
            left, top, right = edges[m : m + 3]
            energy = 0.0
            for k, p in enumerate(power):
                hz = k * spec.sample_rate / size
                if left < hz <= top:
                    energy += p * (hz - left) / (top - left)
                elif top < hz < right:
                    energy += p * (right - hz) / (right - top)
            row.append((math.log(max(energy, spec.floor)) - spec.mean) / spec.std)
        rows.append(row)
    return np.array(rows).T


def test_log_mel_follows_its_definition():
    samples = loud(8 * SPEC.hop)
    np.testing.assert_allclose(log_mel(samples, SPEC), slow_log_mel(samples, SPEC), atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), steps=st.integers(1, 8), gain=st.sampled_from([1e-6, 0.01, 1.0]))
def test_step_by_step_equals_the_whole_clip_exactly(seed, steps, gain):
    samples = loud(steps * STEP, seed) * np.float32(gain)
    padded = np.concatenate((np.zeros(BEFORE, np.float32), samples))
    pieces = [
        log_mel(samples[s * STEP : (s + 1) * STEP], SPEC, padded[s * STEP : s * STEP + BEFORE])
        for s in range(steps)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), log_mel(samples, SPEC))


def test_it_never_looks_ahead():
    first, other = loud(2 * STEP), loud(2 * STEP)
    other[STEP:] = 0.5
    heard = STEP // SPEC.hop
    np.testing.assert_array_equal(log_mel(first, SPEC)[:, :heard], log_mel(other, SPEC)[:, :heard])


@pytest.mark.parametrize("frames", [1, 20, 161])
def test_silence_is_the_log_mel_of_zeros(frames):
    heard = log_mel(np.zeros(frames * SPEC.hop, np.float32), SPEC)
    np.testing.assert_array_equal(silence(SPEC, frames), heard)
    assert heard.dtype == np.float32


@pytest.mark.parametrize("hertz", [250.0, 1000.0, 4000.0])
def test_a_sine_peaks_in_its_band_at_its_power(hertz):
    """A full-scale sine has power 1 in its bin, so the loudest band is near log(1)."""
    at_s = np.arange(16_000) / 16_000
    mel = log_mel(np.sin(2 * np.pi * hertz * at_s).astype(np.float32), SPEC)[:, 10:]
    bank = mel_filterbank(SPEC)
    loudest = int(mel.mean(axis=1).argmax())
    centre = np.average(np.arange(257) * 16_000 / 512, weights=bank[loudest])
    assert abs(centre - hertz) < 0.08 * hertz + 32
    assert abs(mel[loudest].mean() * SPEC.std + SPEC.mean) < 1.2


def test_every_filter_hears_something():
    assert (mel_filterbank(SPEC).sum(axis=1) > 0).all()


@given(extra=st.integers(0, SPEC.hop - 1))
@settings(max_examples=10, deadline=None)
def test_a_rest_shorter_than_a_hop_waits(extra):
    samples = loud(STEP + extra)
    np.testing.assert_array_equal(log_mel(samples, SPEC), log_mel(samples[:STEP], SPEC))
    assert log_mel(samples[:extra], SPEC).shape == (SPEC.mel_bins, 0)


@pytest.mark.parametrize(
    ("height", "width"), [(96, 96), (180, 320), (320, 180), (97, 411), (48, 64)]
)
def test_frames_are_cropped_to_the_centre_and_never_stretched(height, width):
    """A grid of grey ramps: the crop is the largest centred one, so its middle keeps its value."""
    spec = VideoSpec()
    ramp = np.linspace(0, 255, width)[None, :, None].repeat(height, 0).repeat(3, 2).astype(np.uint8)
    fitted = fit_frame(ramp, spec).astype(float)
    assert fitted.shape == (96, 96, 3)
    side = min(height, width)
    left = (width - side) / 2
    ideal = (left + (np.arange(96) + 0.5) * side / 96 - 0.5) * 255 / (width - 1)
    assert np.abs(fitted[48, 2:-2, 0] - ideal[2:-2]).max() < 2.5


def test_shrinking_averages():
    """Nearest-neighbour of a 1-pixel checkerboard would be black or white, not grey."""
    board = (np.indices((192, 192)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert np.abs(fit_frame(board, VideoSpec()).astype(int) - 128).max() <= 1


def test_video_is_normalised_rgb_channel_first():
    spec = VideoSpec(height=4, width=6)
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    video = video_from_frames(frames, spec)
    assert video.shape == (3, 2, 4, 6)
    assert video.dtype == np.float32
    back = video.transpose(1, 2, 3, 0) * np.array(spec.std) + np.array(spec.mean)
    np.testing.assert_array_equal(np.rint(back * 255), frames)
