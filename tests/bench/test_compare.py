"""Accuracy against an independent computation."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from jepa_edge.bench.compare import (
    HISTOGRAM_EDGES,
    agreement,
    foresight,
    outputs_of,
    reference_of,
    token_cosines,
)
from jepa_edge.bench.variants import Chain, variants_of
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import WrongUseError
from jepa_edge.media.clips import clips_from


@pytest.fixture
def chains(micro_bundle):
    return [Chain(variant, threads=1) for variant in variants_of([open_bundle(micro_bundle)])]


def test_cosines_match_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 8)).astype(np.float32)
    expected = [1 - cosine(x.astype(float), y.astype(float)) for x, y in zip(a, b, strict=True)]
    assert token_cosines(a, b) == pytest.approx(expected, abs=1e-12)


def test_zero_agrees_with_zero_only():
    zero, one = np.zeros((1, 4), np.float32), np.ones((1, 4), np.float32)
    assert token_cosines(zero, zero) == 1
    assert token_cosines(zero, one) == 0


def test_agreement_counts_every_token_and_grows_with_noise():
    rng = np.random.default_rng(1)
    exact = rng.normal(size=(200, 16)).astype(np.float32)
    errors = []
    for noise in (0.0, 1e-3, 1e-1, 1.0):
        got = exact + noise * rng.normal(size=exact.shape).astype(np.float32)
        found = agreement(exact, got)
        assert sum(found.cosine_histogram) == len(exact)
        assert found.parity.cosine_worst <= found.parity.cosine_p1 <= found.parity.cosine_mean
        errors.append(found.parity.relative_l2)
    assert errors == sorted(errors)
    assert errors[0] == 0
    assert errors[2] == pytest.approx(0.1, rel=0.1)
    opposite = agreement(exact, -exact)
    assert opposite.cosine_histogram[-1] == len(exact)
    assert len(opposite.cosine_histogram) == len(HISTOGRAM_EDGES) - 1


def test_chained_outputs_use_the_precision_s_own_latents(chains, tiny_clip):
    exact, rough = chains
    clips = clips_from(str(tiny_clip), exact.senses, steps=exact.facts.window, limit=3)
    outputs = outputs_of(rough, clips)
    assert outputs["latents"].shape == (3 * 8, 8)
    assert outputs["future_pooled"].shape == (3 * 2, 8)
    own = rough.foresee(rough.encode(clips[0])["latents"])["future"]
    assert np.array_equal(outputs["future"][: own.shape[1]], own[0])
    other = exact.foresee(exact.encode(clips[0])["latents"])["future"]
    assert not np.array_equal(own, other)


def test_reference_is_fp32_of_the_same_bundle_or_none(chains):
    exact, rough = chains
    assert reference_of(rough, chains) is exact
    assert reference_of(exact, chains) is exact
    assert reference_of(rough, [rough]) is None


def test_unknown_precision_names_the_known_ones(micro_bundle):
    with pytest.raises(WrongUseError, match="no bundle has fp8; there is: fp32, int8"):
        variants_of([open_bundle(micro_bundle)], ["fp8"])


def test_foresight_of_copy_last_lags_one_step(chains, tiny_clip):
    """The micro predictor says the last step again: its line is the actual one, a step late."""
    clips = clips_from(str(tiny_clip), chains[0].senses, steps=4, stride=1)
    found = foresight(chains[0], clips)
    assert found is not None
    assert len(found.actual) == len(clips) - 1
    assert np.allclose(found.predicted[1:], found.actual[:-1], atol=1e-4)
    assert foresight(chains[0], clips[:3]) is None
