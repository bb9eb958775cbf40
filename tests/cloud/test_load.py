"""Many robots on one server that is killed and comes back: nothing lost, nothing mixed up."""

import time

import pytest

from jepa_edge.bench.network.load import load
from jepa_edge.bundle import open_bundle

ROBOTS, STEPS, PERIOD_S = 12, 30, 0.15


def test_each_robot_gets_its_own(server, cloud_bundle):
    facts, _ = load(
        open_bundle(cloud_bundle), f"grpc://{server.address}", 6, steps=8, period_s=PERIOD_S
    )
    assert (facts.answers, facts.errors, facts.wrong) == (48, 0, 0)


@pytest.mark.slow
def test_a_server_killed_under_load_is_taken_over_from(serve, cloud_bundle):
    with serve(cloud_bundle) as first:

        def kill_and_restart():
            time.sleep(1.0)
            first.kill()
            restarted.append(again.enter_context(serve(cloud_bundle, "--port", str(first.port))))

        import contextlib

        restarted = []
        with contextlib.ExitStack() as again:
            facts, fleet = load(
                open_bundle(cloud_bundle),
                f"grpc://{first.address}",
                ROBOTS,
                steps=STEPS,
                period_s=PERIOD_S,
                meanwhile=kill_and_restart,
            )
    assert facts.wrong == 0
    assert facts.errors > 0
    for robot in fleet:
        assert [sample.index for sample in robot.samples] == list(range(STEPS))
        assert robot.samples[-1].pooled is not None
        assert sum(sample.taken_over for sample in robot.samples) == 1
