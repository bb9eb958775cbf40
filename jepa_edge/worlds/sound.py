"""Sound made from the physics, sample by sample in step with the frames."""

from __future__ import annotations

import numpy as np

from jepa_edge.contract import FloatArray

SAMPLE_RATE = 16_000
HOVER_HZ = 110.0
"""Blade-passing frequency of a rotor at hover; it grows with the square root of its thrust."""


class Tone:
    """Harmonics of one turning thing, with a phase that never jumps."""

    def __init__(self, harmonics: tuple[float, ...]) -> None:
        self.harmonics = harmonics
        self.phase = 0.0

    def render(self, hertz: FloatArray, loudness: FloatArray) -> FloatArray:
        """Samples `[n]` for a frequency and an amplitude per sample `[n]`."""
        phase = self.phase + 2 * np.pi * np.cumsum(hertz.astype(np.float64)) / SAMPLE_RATE
        self.phase = float(phase[-1] % (2 * np.pi))
        waves = sum(a * np.sin((k + 1) * phase) for k, a in enumerate(self.harmonics))
        return np.asarray(waves * loudness, np.float32)


class Wind:
    """Low-passed noise whose loudness follows the speed of the air."""

    TAPS = (0.12 * 0.88 ** np.arange(160)).astype(np.float64)
    """One pole at 0.88 (about 330 Hz) as its impulse response, cut below 1e-9 of its start."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.past = np.zeros(len(self.TAPS) - 1)

    def render(self, loudness: FloatArray) -> FloatArray:
        """Samples `[n]` for an amplitude per sample `[n]`; the filter runs on over steps."""
        noise = np.concatenate((self.past, self.random.standard_normal(len(loudness))))
        self.past = noise[-len(self.past) :]
        return np.asarray(np.convolve(noise, self.TAPS, "valid") * loudness, np.float32)


class Impacts:
    """Decaying modes struck by contact impulses; they ring on over step borders."""

    def __init__(self, modes_hz: tuple[float, ...], decay_s: float) -> None:
        self.modes_hz, self.decay_s = modes_hz, decay_s
        self.tail = np.zeros(0, np.float32)

    def render(self, strikes: list[tuple[int, float]], count: int) -> FloatArray:
        """Samples `[count]` for strikes of (sample, strength)."""
        length = count + int(4 * self.decay_s * SAMPLE_RATE)
        out = np.zeros(length, np.float32)
        out[: len(self.tail)] += self.tail[:length]
        for at, strength in strikes:
            time = np.arange(length - at) / SAMPLE_RATE
            ring = sum(np.sin(2 * np.pi * f * time) / (k + 1) for k, f in enumerate(self.modes_hz))
            out[at:] += np.asarray(strength * ring * np.exp(-time / self.decay_s), np.float32)
        self.tail = out[count:]
        return out[:count]


def per_sample(values: FloatArray, count: int) -> FloatArray:
    """`values [k]`, evenly spaced over a step, interpolated to `[count]` samples."""
    at = np.linspace(0, len(values) - 1, count)
    return np.asarray(np.interp(at, np.arange(len(values)), values), np.float32)
