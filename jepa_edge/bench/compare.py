"""Accuracy: each variant's outputs against fp32, chained, so that errors add up as they would."""

from __future__ import annotations

import numpy as np

from jepa_edge.bench.facts import Agreement, Foresight
from jepa_edge.bench.variants import Chain
from jepa_edge.bundle import OutputParity
from jepa_edge.contract import FloatArray, InputError, Tensors
from jepa_edge.media.clips import Clip

HISTOGRAM_EDGES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 2.0)
"""Borders of 1 - cosine; the last bin reaches to the opposite direction."""


def outputs_of(chain: Chain, clips: list[Clip]) -> dict[str, FloatArray]:
    """Every output over all clips, by name, as `[tokens, width]` float32."""
    collected: dict[str, list[FloatArray]] = {}
    for clip in clips:
        encoded: Tensors = chain.encode(clip)
        for name, array in (encoded | chain.foresee(encoded["latents"])).items():
            if not np.isfinite(array).all():
                raise InputError(f"{chain.variant.label}: {name} of {clip.name} is not finite")
            collected.setdefault(name, []).append(array.reshape(-1, array.shape[-1]))
    return {name: np.concatenate(arrays) for name, arrays in collected.items()}


def agreement(reference: FloatArray, measured: FloatArray) -> Agreement:
    """How close `measured` is to `reference`, both `[tokens, width]`; token by token in cosine."""
    cosines = token_cosines(reference, measured)
    exact, got = reference.astype(np.float64), measured.astype(np.float64)
    counts, _ = np.histogram(np.clip(1 - cosines, 0, 2), bins=HISTOGRAM_EDGES)
    return Agreement(
        parity=OutputParity(
            cosine_mean=float(cosines.mean()),
            cosine_p1=float(np.percentile(cosines, 1)),
            cosine_worst=float(cosines.min()),
            relative_l2=float(
                np.linalg.norm(got - exact) / max(float(np.linalg.norm(exact)), 1e-30)
            ),
        ),
        cosine_histogram=counts.tolist(),
    )


def token_cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosine of each row of `a` with the same row of `b`, in double precision; two zeros agree."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    both_zero = (np.abs(x).max(-1) == 0) & (np.abs(y).max(-1) == 0)
    cosines = (x * y).sum(-1) / np.maximum(norms, 1e-30)
    return np.where(both_zero, 1.0, cosines)


def reference_of(chain: Chain, chains: list[Chain]) -> Chain | None:
    """fp32 of the same bundle, else fp32 of a bundle of the same checkpoint, else None."""

    def source(other: Chain) -> str:
        return other.variant.bundle.manifest.provenance.source_sha256

    exact = [other for other in chains if other.variant.precision == "fp32"]
    own = [other for other in exact if other.variant.bundle is chain.variant.bundle]
    related = [other for other in exact if source(other) == source(chain)]
    return next(iter(own + related), None)


def foresight(chain: Chain, clips: list[Clip]) -> Foresight | None:
    """Pooled latents over time, as they came and as foreseen one step before.

    `clips` are windows of one recording, each one step after the one before. The plane is that of
    the first two principal components of what came. None without a predictor or with few clips.
    """
    if "predictor" not in chain.engines or len(clips) < 4:
        return None
    actual, predicted = [], []
    for clip in clips:
        encoded = chain.encode(clip)
        actual.append(encoded["pooled"][0, -1])
        predicted.append(chain.foresee(encoded["latents"])["future_pooled"][0, 0])
    came, foreseen = np.array(actual[1:]), np.array(predicted[:-1])
    centre = came.mean(0)
    _, _, axes = np.linalg.svd(came - centre, full_matrices=False)
    return Foresight(
        clip=clips[0].name,
        actual=((came - centre) @ axes[:2].T).tolist(),
        predicted=((foreseen - centre) @ axes[:2].T).tolist(),
    )
