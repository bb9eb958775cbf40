"""Decisions of one precision against another: intervals, ranks, and what a worse one costs."""

import numpy as np
import pytest
from scipy.stats import binomtest, spearmanr

from jepa_edge.bench.decisions import decider_of, decisions, situations, spearman, wilson
from jepa_edge.bench.variants import Chain, variants_of
from jepa_edge.bundle import open_bundle


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 40), (7, 9), (95, 100), (120, 120)])
def test_wilson_equals_scipy(k, n):
    found = wilson(k, n)
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-5)


def test_no_trials_tell_nothing():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_spearman_equals_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    assert spearman(a, b + a) == pytest.approx(spearmanr(a, b + a).statistic)


@pytest.fixture
def chains(micro_bundle):
    return [Chain(variant, threads=1) for variant in variants_of([open_bundle(micro_bundle)])]


def test_fp32_agrees_with_itself_and_int8_nearly(chains, tiny_clip):
    exact = chains[0]
    clips = situations(str(tiny_clip), decider_of(exact))
    itself, small = decisions(chains, exact, clips, seed=0)
    assert itself.count == 4 * len(clips) == 4 * 15
    assert itself.same_action.share == 1.0
    assert itself.spearman_p5 == pytest.approx(1.0)
    assert itself.regret_mean == 0.0
    assert small.spearman_mean > 0.9
    assert small.regret_mean < 0.1


def test_the_energies_are_those_of_the_candidates(chains, tiny_clip):
    """A chain that moves the other way chooses worse, and the regret says so."""
    exact, other = chains
    engine = other.engines["rollout"]

    class Backwards:
        inputs, outputs, precision_used = engine.inputs, engine.outputs, "f32"

        def run(self, inputs):
            return engine.run(inputs | {"actions": -inputs["actions"]})

    other.engines["rollout"] = Backwards()
    clips = situations(str(tiny_clip), decider_of(exact))
    found = decisions([other], exact, clips, seed=0)[0]
    assert found.spearman_mean < 0
    assert found.regret_mean > 0.3
    assert found.same_action.share < 0.5
