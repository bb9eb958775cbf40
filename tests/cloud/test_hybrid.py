"""Edge and cloud together, on a link that is cut; and the breaker that decides, by properties."""

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.bench.network.profiles import profile
from jepa_edge.bench.network.proxy import proxied
from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.hybrid import Breaker, BreakerConfig, HybridStream
from jepa_edge.runtimes.loop import Loop, Tick
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.link import Link, LinkConfig
from jepa_edge.runtimes.remote.stream import RemoteConfig, RemoteStream
from jepa_edge.runtimes.sinks import SinkConfig, open_sink
from jepa_edge.runtimes.sources import FileSource
from jepa_edge.runtimes.stream import Stream
from tests.cloud.bundles import SENSES, SIDE, WIDTH

BUDGET_MS = 195.0
DEADLINE_S = 0.12
DARK, END = 10, 120
"""Steps without a link, and steps at the most: a busy machine takes longer to trust it."""


@pytest.fixture
def source():
    """Noise at its real rate: a step each 0.2 s."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 255, (2 * END, SIDE, SIDE, 3), np.uint8)
    samples = random.uniform(-0.1, 0.1, END * SENSES.samples_per_step).astype(np.float32)
    return FileSource(frames, samples, SENSES)


def test_a_link_that_is_cut_in_flight(server, cloud_bundle, source, tmp_path):
    """The board goes on within one step, and the cloud comes back."""
    bundle = open_bundle(cloud_bundle)
    goal = np.linspace(-1, 1, WIDTH).astype(np.float32)
    log = tmp_path / "ticks.jsonl"
    with proxied(("127.0.0.1", server.port), profile("lan"), 0) as proxy:
        link = Link(LinkConfig(uri=f"grpc://127.0.0.1:{proxy.port}"))
        cloud = RemoteStream(bundle, link, RemoteConfig(deadline_s=DEADLINE_S), goal=goal)
        cloud.connect()
        rollout = open_engine(bundle, "rollout", threads=1)
        stream = HybridStream(
            Stream(bundle, None, threads=1),
            cloud,
            Breaker(BreakerConfig(least_s=0.3)),
            pilot=Pilot(Planner(rollout, PlannerConfig(), bundle.manifest.model), goal),
        )
        loop = Loop(stream, age_limit_ms=BUDGET_MS, goal=goal, pilot=stream)
        with open_sink(SinkConfig(uri=f"file:{log}")) as sink:
            cut_after, healed_after = flown(loop.ticks(source), sink, proxy)
        link.close()
    assert_safe_and_steady(log, cut_after, healed_after)
    assert stream.breaker.opened >= 1


def flown(ticks, sink, proxy):
    """Cuts the link when the cloud is trusted, heals it, and ends when it is trusted again."""
    cut_after = healed_after = None
    trusted = 0
    for tick in ticks:
        sink.take(tick)
        trusted = trusted + 1 if (tick.state, tick.path) == ("ok", "cloud") else 0
        if cut_after is None and trusted >= 3:
            proxy.cut()
            cut_after = tick.step
        elif cut_after is not None and healed_after is None and tick.step >= cut_after + DARK:
            proxy.heal()
            healed_after = tick.step
        elif healed_after is not None and trusted >= 2:
            break
    return cut_after, healed_after


def assert_safe_and_steady(log, cut_after, healed_after):
    """From the log: no command is older than its budget; who thought at which step."""
    ticks = [msgspec.json.decode(line, type=Tick) for line in log.read_bytes().splitlines()]
    sent = [tick for tick in ticks if tick.action is not None]
    assert all(tick.age_ms <= BUDGET_MS and tick.state == "ok" for tick in sent)
    assert [t.captured_ns for t in ticks] == sorted({t.captured_ns for t in ticks})
    during = [t for t in ticks if cut_after < t.step <= healed_after]
    assert {tick.path for tick in during if tick.state == "ok"} == {"edge"}
    acted = [tick for tick in during if tick.action is not None]
    assert acted[0].step <= cut_after + 2  # the next step; one more for a busy machine
    assert len(acted) >= DARK // 2
    assert (ticks[-1].path, ticks[-1].state) == ("cloud", "ok")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@given(answers=st.lists(st.booleans(), max_size=200))
def test_the_breaker_opens_by_misses_and_closes_only_after_good_ones_and_a_wait(answers):
    clock = Clock()
    config = BreakerConfig()
    breaker = Breaker(config, clock)
    before, opened_at = "cloud", 0.0
    for index, answer in enumerate(answers):
        clock.now += 0.2
        path = breaker.record(in_time=answer)
        recent = answers[max(0, index + 1 - config.of) : index + 1]
        if (before, path) == ("cloud", "edge"):
            assert recent.count(False) >= config.misses
            opened_at = clock.now
        if (before, path) == ("edge", "cloud"):
            assert all(answers[index + 1 - config.good : index + 1])
            assert clock.now - opened_at >= config.least_s
        before = path


def test_a_link_that_flaps_is_left_for_longer_and_longer():
    clock = Clock()
    config = BreakerConfig(least_s=1, most_s=8, settled_s=60)
    breaker = Breaker(config, clock)
    waits = []
    for _ in range(6):
        while breaker.path == "cloud":
            clock.now += 0.2
            breaker.record(in_time=False)
        opened = clock.now
        while breaker.path == "edge":
            clock.now += 0.2
            breaker.record(in_time=True)
        waits.append(clock.now - opened)
    assert np.diff(waits).min() > -0.3
    assert waits[0] == pytest.approx(1, abs=0.3)
    assert waits[-1] == pytest.approx(8, abs=0.3)
    clock.now += 100
    while breaker.path == "cloud":
        breaker.record(in_time=False)
    opened = clock.now
    while breaker.path == "edge":
        clock.now += 0.2
        breaker.record(in_time=True)
    assert clock.now - opened == pytest.approx(1, abs=0.3)  # long quiet: forgiven


def test_without_a_server_the_board_flies_from_the_first_step(cloud_bundle, steps):
    bundle = open_bundle(cloud_bundle)
    link = Link(LinkConfig(uri="grpc://127.0.0.1:9"))
    cloud = RemoteStream(bundle, link, RemoteConfig(deadline_s=0.05))
    edge = Stream(bundle, None, threads=1)
    ours = Stream(bundle, None, threads=1)
    stream = HybridStream(edge, cloud, Breaker(BreakerConfig()))
    slowest = 0.0
    for step in steps:
        began = time.monotonic()
        _, pooled = stream.encode(step)
        slowest = max(slowest, time.monotonic() - began)
        np.testing.assert_array_equal(pooled, ours.encode(step)[1])
        assert stream.path == "edge"
    assert stream.breaker.path == "edge"
    assert stream.is_warm
    link.close()
