"""What flights are compared by, and what a second run may go on with."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_edge.bench.closed_loop import EPISODES_FILE, ClosedLoopConfig, evaluate
from jepa_edge.bench.flights import Flight, paired
from jepa_edge.bundle import MANIFEST, Manifest
from jepa_edge.contract import InputError, WrongUseError
from tests.cloud.bundles import cloud_bundle_at

SCENES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80)


@given(SCENES)
def test_a_paired_difference_is_that_of_the_shares_and_changes_sign_with_the_sides(scenes):
    first, other = ([pair[side] for pair in scenes] for side in (0, 1))
    found, back = paired(first, other), paired(other, first)
    assert found.share == pytest.approx(np.mean(other) - np.mean(first), abs=1e-5)
    assert -1 <= found.low < found.high <= 1
    assert (-back.share, -back.high, -back.low) == pytest.approx(
        (found.share, found.low, found.high)
    )


def test_its_interval_holds_the_true_difference_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    outcomes = random.choice(4, p=(0.5, 0.12, 0.08, 0.3), size=(2000, 60))  # won by first, other
    held = [
        (found := paired(list(row % 2 == 1), list(row >= 2))).low <= -0.04 <= found.high
        for row in outcomes
    ]
    assert 0.93 < np.mean(held) < 0.98


def test_scenes_flown_alike_narrow_the_interval():
    first = [True, False] * 30
    turned = [not won if index % 10 == 0 else won for index, won in enumerate(first)]
    strangers = list(np.random.default_rng(1).permutation(first))
    alike, apart = (paired(first, list(map(bool, other))) for other in (turned, strangers))
    assert alike.high - alike.low < 0.6 * (apart.high - apart.low)


def flown(tmp_path, bundle, **changes):
    """What evaluating `bundle` on few steps gives, into the folder ``out``."""
    given = {"world": "reach", "episodes": 1, "steps": 2, "threads": 1, "out": tmp_path / "out"}
    try:
        return evaluate(ClosedLoopConfig(bundle=bundle, **given | changes), lambda *_: None)
    except InputError as error:
        if "OpenGL" not in str(error):
            raise
        pytest.skip(str(error))


def test_flights_of_a_bundle_that_was_made_again_otherwise_are_not_gone_on_with(tmp_path):
    bundle = cloud_bundle_at(tmp_path / "micro.jepa")
    first = flown(tmp_path, bundle)
    assert flown(tmp_path, bundle).pilots == first.pilots
    file = bundle / MANIFEST
    manifest = msgspec.json.decode(file.read_bytes(), type=Manifest)
    careful = msgspec.structs.replace(manifest.model, caution=9.0)
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(manifest, model=careful)))
    with pytest.raises(InputError, match="another setting or bundle"):
        flown(tmp_path, bundle)


def test_scenes_flown_side_by_side_are_the_same(tmp_path):
    bundle = cloud_bundle_at(tmp_path / "micro.jepa")

    def flights(workers):
        out = tmp_path / str(workers)
        flown(tmp_path, bundle, episodes=3, workers=workers, out=out)
        lines = (out / EPISODES_FILE).read_bytes().splitlines()
        found = [msgspec.json.decode(line, type=Flight) for line in lines]
        still = [msgspec.structs.replace(flight, plan_ms=[]) for flight in found]
        return sorted(still, key=lambda flight: (flight.seed, flight.pilot))

    assert flights(2) == flights(1)
    with pytest.raises(WrongUseError, match="workers"):
        ClosedLoopConfig(bundle=bundle, world="reach", workers=0)
