"""Frames and samples → what the model takes, the same for training, export and the robot."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from jepa_edge.contract import AudioSpec, FloatArray, MissingExtraError, VideoSpec, WrongUseError

Frames = npt.NDArray[np.uint8]


def fit_frame(frame: Frames, spec: VideoSpec) -> Frames:
    """`frame [H0, W0, 3]` RGB, centre-cropped to the model's aspect and resized to `[H, W, 3]`."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("OpenCV", "sensors") from error
    height, width = frame.shape[:2]
    if (height, width) == (spec.height, spec.width):
        return frame
    scale = min(height / spec.height, width / spec.width)
    crop_h, crop_w = round(spec.height * scale), round(spec.width * scale)
    top, left = (height - crop_h) // 2, (width - crop_w) // 2
    part = np.ascontiguousarray(frame[top : top + crop_h, left : left + crop_w])
    how = cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, (spec.width, spec.height), interpolation=how), np.uint8)


def video_from_frames(frames: Frames, spec: VideoSpec) -> FloatArray:
    """`frames [T, H0, W0, 3]` RGB → normalised `video [3, T, H, W]` float32."""
    fitted = np.stack([fit_frame(frame, spec) for frame in frames])
    scaled = fitted.astype(np.float32) / np.float32(255)
    normal = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    return np.ascontiguousarray(normal.transpose(3, 0, 1, 2), dtype=np.float32)


def frames_from_video(video: FloatArray, spec: VideoSpec) -> Frames:
    """The pictures `[T, H, W, 3]` that `video [3, T, H, W]` was made from; not finite is black."""
    std, mean = np.array(spec.std, np.float32), np.array(spec.mean, np.float32)
    with np.errstate(invalid="ignore"):
        pixels = np.rint((video.transpose(1, 2, 3, 0) * std + mean) * 255)
        frames: Frames = np.nan_to_num(pixels).clip(0, 255).astype(np.uint8)
    return frames


def log_mel(samples: FloatArray, spec: AudioSpec, previous: FloatArray | None = None) -> FloatArray:
    """Causal log-mel features `[M, n // hop]` of `samples [n]` in [-1, 1].

    Args:
        samples: mono sound at ``spec.sample_rate``.
        spec: frame k covers samples ``[(k+1)*hop - window, (k+1)*hop)``; see `AudioSpec`.
        previous: the ``window - hop`` samples before, or None for silence. With them, features
            computed step by step equal those of the whole clip.
    """
    before = spec.window - spec.hop
    head = np.zeros(before, np.float32) if previous is None else previous[-before:]
    whole = np.concatenate((head, samples)).astype(np.float32)
    if len(samples) < spec.hop:
        return np.zeros((spec.mel_bins, 0), np.float32)
    framed = np.lib.stride_tricks.sliding_window_view(whole, spec.window)[:: spec.hop]
    spectrum = np.fft.rfft(framed * _window(spec), n=_fft_size(spec), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    mel = np.maximum(_mel_from_power(power, spec), np.float32(spec.floor))
    scaled = (np.log(mel) - np.float32(spec.mean)) / np.float32(spec.std)
    return np.ascontiguousarray(scaled.T, dtype=np.float32)


def silence(spec: AudioSpec, frames: int) -> FloatArray:
    """Features `[M, frames]` of digital silence: what a missing microphone gives."""
    quiet = (np.log(np.float32(spec.floor)) - np.float32(spec.mean)) / np.float32(spec.std)
    return np.full((spec.mel_bins, frames), quiet, np.float32)


@lru_cache(maxsize=8)
def mel_filterbank(spec: AudioSpec) -> FloatArray:
    """Triangular filters `[M, n_fft // 2 + 1]` on the HTK mel scale, peak 1 (Young et al. 2006)."""
    edges_mel = np.linspace(_mel(spec.f_min_hz), _mel(spec.f_max_hz), spec.mel_bins + 2)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    size = _fft_size(spec)
    bins = np.arange(size // 2 + 1) * spec.sample_rate / size
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)


def _mel_from_power(power: FloatArray, spec: AudioSpec) -> FloatArray:
    """`power [F, n_fft // 2 + 1]` through the filters: `[F, M]`.

    Not a matrix product: BLAS adds up in another order for another number of rows, and a step must
    give the same bits as the clip.
    """
    bins, weights, firsts = _filter_taps(spec)
    return np.add.reduceat(power[:, bins] * weights, firsts, axis=1)


@lru_cache(maxsize=8)
def _filter_taps(spec: AudioSpec) -> tuple[npt.NDArray[np.intp], FloatArray, npt.NDArray[np.intp]]:
    """Every filter's bins and weights, one filter after the other, and where each begins."""
    bank = mel_filterbank(spec)
    spans = [np.flatnonzero(row) for row in bank]
    if not all(map(len, spans)):
        raise WrongUseError(
            f"{spec.mel_bins} mel bins from {spec.f_min_hz:g} to {spec.f_max_hz:g} Hz are finer "
            f"than a window of {spec.window} samples resolves; ask for fewer bins"
        )
    weights = [row[span] for row, span in zip(bank, spans, strict=True)]
    firsts = np.concatenate(([0], np.cumsum([len(span) for span in spans])[:-1]))
    return np.concatenate(spans), np.concatenate(weights), firsts.astype(np.intp)


@lru_cache(maxsize=8)
def _window(spec: AudioSpec) -> FloatArray:
    """A periodic Hann window, scaled so that a full-scale sine has power near 1 per bin."""
    phase = 2.0 * np.pi * np.arange(spec.window) / spec.window
    hann = 0.5 - 0.5 * np.cos(phase)
    return np.asarray(hann / (hann.sum() / 2.0), np.float32)


def _fft_size(spec: AudioSpec) -> int:
    return 1 << (spec.window - 1).bit_length()


def _mel(hertz: float) -> float:
    return float(2595.0 * np.log10(1.0 + hertz / 700.0))
