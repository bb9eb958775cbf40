"""Rollout errors along the horizon, neighbours, and intervals."""

import numpy as np
import pytest

from jepa_edge.bench.fidelity import HORIZONS, fidelity
from jepa_edge.bench.surprise import auroc, auroc_interval
from jepa_edge.bench.variants import Chain, Variant
from jepa_edge.bundle import open_bundle
from jepa_edge.media.clips import Clip


def test_fp32_is_itself_and_int8_drifts_with_the_horizon(micro_bundle):
    bundle = open_bundle(micro_bundle)
    chains = [
        Chain(Variant(label=name, bundle=bundle, precision=name), threads=1)
        for name in ("fp32", "int8")
    ]
    rng = np.random.default_rng(0)
    window = bundle.manifest.model.window
    clips = [
        Clip(
            name=str(k),
            video=rng.normal(size=(3, 2 * window, 16, 16)).astype(np.float32),
            audio=rng.normal(size=(1, 8, 20 * window)).astype(np.float32),
        )
        for k in range(12)
    ]
    exact, small = fidelity(chains, chains[0], clips, 0)
    assert [one.steps for one in exact.horizons] == list(HORIZONS)
    assert all(one.relative_l2 == 0 for one in exact.horizons)
    assert exact.same_neighbour.share == 1.0
    assert exact.same_neighbour.low < 1.0
    for one in small.horizons:
        assert 0 < one.low <= one.relative_l2 <= one.high < 0.2
    assert small.same_neighbour.share >= 0.5


def test_the_interval_of_an_auroc_holds_what_resampling_finds():
    rng = np.random.default_rng(0)
    areas = [
        auroc(rng.normal(1.0, 1, 60).astype(np.float32), rng.normal(0, 1, 60).astype(np.float32))
        for _ in range(400)
    ]
    low, high = auroc_interval(float(np.mean(areas)), 60, 60)
    inside = np.mean([(low <= area <= high) for area in areas])
    assert inside == pytest.approx(0.95, abs=0.04)
    assert auroc_interval(1.0, 5, 5) == (1.0, 1.0)
