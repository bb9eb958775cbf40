"""The bench of paths: what is commanded when, ages from logs, crossovers; and the page in docs."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.bench.network.crossover import round_trip_p95_ms, speedup_needed
from jepa_edge.bench.network.facts import Costs
from jepa_edge.bench.network.flight import FlightConfig, Timing, scheduled
from jepa_edge.bench.network.measure import PathConfig, age_from, measured
from jepa_edge.bench.network.profiles import PROFILES
from jepa_edge.bench.network.tun import hosts, unavailable
from jepa_edge.contract import WrongUseError

OLD, NEW = np.full(4, 0.5, np.float32), np.full(4, -0.5, np.float32)
CONFIG = FlightConfig(world="forest", precision="fp32", edge_ms=25, cloud_ms=25)


@given(
    age=st.floats(0, 1),
    after=st.floats(0, 0.4),
    budget=st.floats(0.01, 1),
    holds=st.booleans(),
)
def test_nothing_older_than_its_budget_is_ever_followed(age, after, budget, holds):
    parts, still = scheduled(OLD, age, None if holds else NEW, after, budget)
    at = np.arange(40) * 0.2 / 40
    follows_old = (parts == OLD).all(axis=1)
    assert (age + at[follows_old] <= budget + 1e-9).all()
    assert (at[follows_old] < after).all()
    new = (parts == NEW).all(axis=1)
    assert (at[new] >= after).all()
    assert still == pytest.approx(np.mean((parts == 0).all(axis=1)))


def decisions(path, network, seed=0, steps=200):
    timing = Timing(path, network, CONFIG, seed)
    return [timing.decide(k * 0.2, 6000, 8) for k in range(steps)]


@pytest.mark.parametrize("network", PROFILES)
def test_the_edge_does_not_care_for_networks_and_hybrids_always_decide(network):
    assert set(decisions("edge", network)) == {(0.025, "edge")}
    hybrid = decisions("hybrid", network)
    assert hybrid == decisions("hybrid", network)
    assert {who for _, who in hybrid} <= {"edge", "cloud"}
    assert max(after for after, _ in hybrid) <= CONFIG.deadline_ms / 1e3
    cloud = decisions("cloud", network)
    assert {who for _, who in cloud} <= {"cloud", "hold"}


def test_a_blackout_holds_the_cloud_and_moves_the_hybrid_on_board():
    cloud, hybrid = decisions("cloud", "blackout", steps=300), decisions("hybrid", "blackout")
    assert 0.1 < np.mean([who == "hold" for _, who in cloud]) < 0.5
    assert {who for _, who in hybrid} == {"edge", "cloud"}


def test_crossover_is_where_the_link_takes_as_long_as_the_board():
    assert speedup_needed(100, 50) == 2
    assert speedup_needed(50, 50) == speedup_needed(40, 50) == float("inf")
    assert round_trip_p95_ms("lan", 6000) < round_trip_p95_ms("5g_good", 6000)
    assert round_trip_p95_ms("5g_good", 6000) < round_trip_p95_ms("lte_air", 6000)


def test_ages_and_costs_are_what_they_say():
    age = age_from(list(map(float, range(1, 101))))
    assert (age.p50_ms, age.max_ms, age.count) == (50.5, 100.0, 100)
    assert age_from([]) is None
    costs = Costs(server_usd_per_hour=1, robots_per_server=10, usd_per_gib=2)
    assert costs.per_hour(2**30 / 3600 / 5, 5) == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"networks": ("6g",)}, "5g_good"), ({"paths": ("fog",)}, "hybrid"), ({"lab": "x"}, "netns")],
)
def test_wrong_use_is_said(tmp_path, fields, says):
    with pytest.raises(WrongUseError, match=says):
        PathConfig(bundle=tmp_path, **fields)


@pytest.mark.slow
@pytest.mark.skipif(bool(unavailable()), reason=unavailable() or "-")
def test_a_real_tcp_round_trip_over_tun_takes_what_the_profile_says():
    with hosts("5g_good", 0) as places:
        done = subprocess.run(
            ["ip", "netns", "exec", places.robot, sys.executable, "-c", PING, places.cloud_address]
            + [places.cloud],
            capture_output=True,
            text=True,
            check=True,
        )
    assert 44 < float(done.stdout) < 60
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert places.robot not in left


PING = """
import socket, subprocess, sys, time
echo = "import socket; s = socket.create_server(('', 5555)); c = s.accept()[0]\\n" \\
       "while d := c.recv(99): c.sendall(d)"
far = subprocess.Popen(["ip", "netns", "exec", sys.argv[2], sys.executable, "-c", echo])
until = time.monotonic() + 20
while True:
    try:
        s = socket.create_connection((sys.argv[1], 5555), timeout=2); break
    except OSError:
        assert time.monotonic() < until
        time.sleep(0.1)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
took = []
for _ in range(40):
    began = time.monotonic(); s.sendall(b"x"); s.recv(9); took.append(time.monotonic() - began)
print(sorted(took)[20] * 1e3)
s.close(); far.wait()
"""


@pytest.mark.slow
def test_paths_are_measured_on_real_processes(cloud_bundle):
    from importlib import resources

    clip = str(resources.files("jepa_edge") / "assets" / "clips" / "forest-000.mp4")
    config = PathConfig(
        bundle=cloud_bundle,
        paths=("edge", "hybrid"),
        networks=("lan",),
        clip=clip,
        rounds=1,
        steps=15,
        threads=1,
    )
    edge, hybrid = measured(config, lambda *_: None, 0.2)
    assert edge.bytes_up is None
    assert edge.cloud_share == 0
    assert hybrid.bytes_up > 500
    assert hybrid.age.count > 0
    assert max(edge.age.max_ms, hybrid.age.max_ms) <= config.budget_ms


def test_the_page_says_what_the_committed_results_say():
    done = subprocess.run([sys.executable, "benchmarks/network_tables.py", "--check"])
    assert done.returncode == 0, "run: python benchmarks/network_tables.py"
