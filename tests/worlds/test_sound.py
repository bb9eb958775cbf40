"""Sound made from physics: pieces make the whole, and pitches and loudness are as asked."""

import numpy as np
import pytest
from scipy.signal import lfilter

from jepa_edge.worlds.sound import SAMPLE_RATE, Impacts, Tone, Wind, per_sample


def pieces(render, count, size):
    return np.concatenate([render(slice(i, i + size)) for i in range(0, count, size)])


def test_a_tone_in_pieces_is_the_whole_tone():
    hertz = np.linspace(100, 300, 6400, dtype=np.float32)
    loud = np.linspace(0.1, 0.3, 6400, dtype=np.float32)
    whole, split = Tone((0.5, 0.3)), Tone((0.5, 0.3))
    expected = whole.render(hertz, loud)
    got = pieces(lambda part: split.render(hertz[part], loud[part]), 6400, 800)
    assert got == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("hertz", [90.0, 440.0, 1000.0])
def test_a_tone_has_its_pitch(hertz):
    sound = Tone((1.0,)).render(np.full(16_000, hertz, np.float32), np.ones(16_000, np.float32))
    assert np.argmax(np.abs(np.fft.rfft(sound))) == hertz


def test_wind_is_the_one_pole_filter_it_says_it_is():
    loud = np.ones(9600, np.float32)
    wind = Wind(np.random.default_rng(1))
    got = np.concatenate([wind.render(loud[:3200]) for _ in range(3)])
    expected = lfilter([0.12], [1, -0.88], np.random.default_rng(1).standard_normal(9600))
    assert got == pytest.approx(expected, abs=1e-6)


def test_an_impact_rings_on_over_the_border():
    whole, split = Impacts((200.0, 900.0), 0.05), Impacts((200.0, 900.0), 0.05)
    expected = whole.render([(3000, 0.4)], 6400)
    got = np.concatenate((split.render([(3000, 0.4)], 3200), split.render([], 3200)))
    assert got == pytest.approx(expected, abs=1e-6)
    assert np.abs(got[3200:3600]).max() > 0.05


def test_two_impacts_add_up_and_die_away():
    both = Impacts((300.0,), 0.02).render([(0, 0.2), (700, 0.3)], SAMPLE_RATE // 2)
    first = Impacts((300.0,), 0.02).render([(0, 0.2)], SAMPLE_RATE // 2)
    second = Impacts((300.0,), 0.02).render([(700, 0.3)], SAMPLE_RATE // 2)
    assert both == pytest.approx(first + second, abs=1e-6)
    assert not both[4000:].any() or np.abs(both[4000:]).max() < 1e-4


def test_values_are_spread_evenly_over_a_step():
    assert per_sample(np.array([0.0, 1.0, 2.0], np.float32), 5) == pytest.approx(
        [0, 0.5, 1, 1.5, 2]
    )
