"""The bench of paths: what is commanded when, ages from logs, crossovers; and the page in docs."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.bench.network.crossover import best_path, round_trip_p95_ms, speedup_needed
from jepa_edge.bench.network.facts import Costs, ModelTimes, age_from
from jepa_edge.bench.network.measure import PathConfig, measured
from jepa_edge.bench.network.profiles import PROFILES
from jepa_edge.bench.network.timing import Command, Timing, TimingConfig, scheduled
from jepa_edge.bench.network.tun import hosts, unavailable
from jepa_edge.contract import WrongUseError

CONFIG = TimingConfig(edge_ms=25, encode_ms=5, cloud_ms=25)


COMMANDS = st.lists(
    st.tuples(st.floats(0, 0.5), st.floats(0, 0.5), st.booleans()), min_size=1, max_size=5
)


@given(waits=COMMANDS, begins=st.floats(0, 1), budget=st.floats(0.01, 1))
def test_nothing_older_than_its_budget_is_ever_followed(waits, begins, budget):
    commands, at = [], 0.0
    for number, (pause, took, holds) in enumerate(waits, start=1):
        seen, at = at + pause, at + pause + took
        action = None if holds else np.full(4, number / 10, np.float32)
        commands.append(Command(at_s=at, seen_s=seen, action=action))
    parts, still = scheduled(commands, begins, budget, 4)
    for part, row in enumerate(parts):
        now = begins + part * 0.2 / 40
        given_by_now = [c for c in commands if c.at_s <= now]
        if row.any():
            assert (row == given_by_now[-1].action).all()
            assert now - given_by_now[-1].seen_s <= budget
        else:
            last = given_by_now[-1] if given_by_now else None
            assert last is None or last.action is None or now - last.seen_s > budget
    assert still == pytest.approx(np.mean((parts == 0).all(axis=1)))


def test_a_board_slower_than_a_step_drops_what_it_cannot_look_at():
    slow = TimingConfig(edge_ms=300, encode_ms=20, cloud_ms=25)
    timing = Timing("edge", "lan", slow, 0)
    assert timing.decide(0.0, 6000, 8) == (0.3, "edge")
    assert [timing.is_busy(now) for now in (0.2, 0.3, 0.4)] == [True, False, False]
    assert timing.decide(0.4, 6000, 8, plans=False) == (0.02, "edge")
    hybrid = Timing("hybrid", "lan", slow, 0)
    after, who = hybrid.decide(0.0, 6000, 8)
    assert who == "cloud"
    assert after == pytest.approx(0.028, abs=0.005)


def decisions(path, network, seed=0, steps=200):
    timing = Timing(path, network, CONFIG, seed)
    return [timing.decide(k * 0.2, 6000, 8) for k in range(steps)]


@pytest.mark.parametrize("network", PROFILES)
def test_the_edge_does_not_care_for_networks_and_hybrids_always_decide(network):
    assert set(decisions("edge", network)) == {(0.025, "edge")}
    hybrid = decisions("hybrid", network)
    assert hybrid == decisions("hybrid", network)
    assert {who for _, who in hybrid} <= {"edge", "cloud"}
    most_s = (CONFIG.deadline_ms + CONFIG.edge_ms - CONFIG.encode_ms) / 1e3
    assert max(after for after, _ in hybrid) <= most_s + 1e-9
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


def test_the_best_path_is_the_sooner_one_and_a_tie_stays_on_board():
    model = ModelTimes(
        name="m", precision="int8", parameters=1, encode_ms=1, decision_ms=100, step_bytes=1
    )
    assert best_path(model, 50, 10) == ("cloud", 60)
    assert best_path(model, 90, 10) == ("edge", 100)
    assert best_path(model, 0, 1) == ("edge", 100)


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
