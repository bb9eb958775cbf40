"""The laboratory's links: what their profiles say, the same for a seed, and again from a trace."""

import itertools

import numpy as np
import pytest

from jepa_edge.bench.network.link import (
    Pipe,
    RecordedWay,
    ReplayedWay,
    SimulatedWay,
    read_trace,
    write_trace,
)
from jepa_edge.bench.network.profiles import PROFILES, Bursts, Direction, profile
from jepa_edge.contract import InputError, WrongUseError

EVERY_S, SIZE = 0.02, 1200


def carried(way, seconds=240.0):
    """(sent, arrived or None) of a packet each 20 ms."""
    sent = np.arange(0, seconds, EVERY_S)
    return [(now, way.arrival(now, SIZE)) for now in sent]


def delays_ms(pairs):
    return np.array([(at - now) * 1e3 for now, at in pairs if at is not None])


@pytest.mark.parametrize("name", PROFILES)
def test_the_same_seed_is_the_same_link_and_packets_keep_their_order(name):
    spec = profile(name).up
    first, second, other = (carried(SimulatedWay(spec, seed), 120) for seed in (1, 1, 2))
    assert first == second
    assert first != other or not (spec.jitter_ms or spec.bursts)
    arrivals = [at for _, at in first if at is not None]
    assert arrivals == sorted(arrivals)
    assert delays_ms(first).min() >= spec.delay_ms


def round_trips(name):
    spec = profile(name)
    up, down = carried(SimulatedWay(spec.up, 1)), carried(SimulatedWay(spec.down, 2))
    pairs = zip(up, down, strict=True)
    return np.array(
        [(a[1] - a[0] + b[1] - b[0]) * 1e3 for a, b in pairs if None not in (a[1], b[1])]
    )


def test_profiles_are_what_their_sources_measured():
    assert np.median(round_trips("5g_good")) == pytest.approx(47, abs=2)
    assert np.percentile(round_trips("lte_air"), 80) == pytest.approx(150, abs=25)
    assert np.percentile(round_trips("starlink"), 95) <= 55
    assert np.median(round_trips("lan")) < 3
    assert round_trips("bufferbloat").max() > 300
    black = carried(SimulatedWay(profile("blackout").up, 0))
    lost = np.mean([at is None for _, at in black])
    assert lost == pytest.approx(5 / 30, abs=0.01)


def test_losses_come_in_bursts_at_the_rate_of_the_model():
    """The share of a Gilbert-Elliott chain: bad for p/(p+r) of the packets (Elliott 1963)."""
    bursts = Bursts(0.02, 0.25, 0.5)
    way = SimulatedWay(Direction(delay_ms=1, bursts=bursts), 3)
    lost = [at is None for _, at in carried(way, 1500)]
    expected = 0.02 / (0.02 + 0.25) * 0.5
    assert np.mean(lost) == pytest.approx(expected, rel=0.25)
    pairs = np.mean([a and b for a, b in itertools.pairwise(lost)])
    assert pairs > 3 * expected**2  # independent losses would meet that often


def test_the_bottleneck_limits_the_rate_and_drops_what_its_queue_cannot_hold():
    way = SimulatedWay(Direction(delay_ms=10, rate_mbit=8, queue_ms=50), 0)
    arrivals = [way.arrival(0.0, 1000) for _ in range(100)]  # 1 ms each
    there = [at for at in arrivals if at is not None]
    assert len(there) == pytest.approx(51, abs=1)
    assert np.diff(there) == pytest.approx(np.full(len(there) - 1, 1e-3))


def test_a_pipe_loses_nothing_but_time():
    way = SimulatedWay(Direction(delay_ms=10, bursts=Bursts(0.05, 0.3, 0.5)), 0)
    pipe = Pipe(way, 0.02)
    arrivals = [pipe.arrival(now, 12_000) for now in np.arange(0, 60, 0.2)]
    assert arrivals == sorted(arrivals)
    late = np.array(arrivals) - np.arange(0, 60, 0.2)
    assert pipe.lost > 0
    assert late.min() == pytest.approx(0.01, abs=0.002)
    assert late.max() > 0.2  # a retransmission


def test_a_recorded_link_can_be_replayed(tmp_path):
    recorded = RecordedWay(SimulatedWay(profile("lte_air").up, 5))
    first = carried(recorded, 60)
    write_trace(tmp_path / "link.jsonl", recorded.trace)
    replayed = carried(ReplayedWay(read_trace(tmp_path / "link.jsonl")), 59)
    np.testing.assert_allclose(delays_ms(replayed), delays_ms(first[: len(replayed)]), atol=0.01)
    (tmp_path / "broken").write_text("{")
    with pytest.raises(InputError, match="no network trace"):
        read_trace(tmp_path / "broken")
    with pytest.raises(InputError, match="empty"):
        ReplayedWay([])


def test_an_unknown_network_is_told_with_those_that_are_known():
    with pytest.raises(WrongUseError, match="5g_good"):
        profile("6g")
