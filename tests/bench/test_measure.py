"""Speed: the statistics and the order of the calls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.bench.machine import status_mib
from jepa_edge.bench.measure import WARM_UP, interleaved, peak_rss_mib, timing_from, turns
from jepa_edge.bench.variants import Variant
from jepa_edge.bundle import open_bundle


@given(st.lists(st.floats(0.125, 1e4, width=32), min_size=2, max_size=50))
def test_statistics_are_ordered_and_inside_the_samples(values):
    timing = timing_from(np.array(values, np.float32))
    ordered = [timing.min_ms, timing.p25_ms, timing.median_ms, timing.p75_ms, timing.p90_ms]
    ordered += [timing.p99_ms, max(values)]
    assert ordered == sorted(ordered)
    assert timing.iqr_ms >= 0
    assert timing.count == len(values)


def test_statistics_of_a_known_sample():
    timing = timing_from(np.arange(101, dtype=np.float32))
    found = (timing.min_ms, timing.p25_ms, timing.median_ms, timing.p90_ms, timing.p99_ms)
    assert found == pytest.approx((0, 25, 50, 90, 99))
    assert timing.iqr_ms == pytest.approx(50)


@given(st.integers(1, 6), st.integers(1, 12))
def test_each_round_has_everyone_once_and_starts_are_shared(count, rounds):
    order = list(turns(count, rounds))
    each = [order[k * count : (k + 1) * count] for k in range(rounds)]
    assert all(sorted(one) == list(range(count)) for one in each)
    starts = np.bincount([one[0] for one in each], minlength=count)
    assert starts.max() - starts.min() <= 1


def test_calls_alternate_and_warm_up_is_not_counted():
    called = []
    clock = iter(range(0, 10**9, 1_000_000))
    calls = {name: lambda name=name: called.append(name) for name in "abc"}
    taken = interleaved(calls, rounds=4, clock_ns=lambda: next(clock))
    warm = 3 * WARM_UP
    assert called[warm:] == list("abcbcacababc")
    assert {name: values.tolist() for name, values in taken.items()} == dict.fromkeys(
        "abc", [1] * 4
    )


def test_slow_call_is_seen_as_slow():
    size = 200_000
    calls = {"slow": lambda: np.sort(np.arange(size)[::-1] % 7919), "fast": lambda: None}
    taken = interleaved(calls, rounds=5)
    assert np.median(taken["slow"]) > 10 * np.median(taken["fast"])


def test_peak_memory_is_that_of_another_process(micro_bundle):
    bundle = open_bundle(micro_bundle)
    peak = peak_rss_mib(Variant(label="fp32", bundle=bundle, precision="fp32"), threads=1)
    assert peak is not None
    assert 10 < peak < 2_000
    missing = Variant(label="x", bundle=bundle, precision="bf16")
    assert peak_rss_mib(missing, threads=1) is None


def test_peak_is_at_least_what_is_held_now():
    assert status_mib("VmHWM") >= status_mib("VmRSS") > 1
    with pytest.raises(ValueError, match="VmNothing"):
        status_mib("VmNothing")
