"""The change gate: what moved is encoded, what crept too, what stood still is not."""

import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.gate import GatedStream, changed_picture
from jepa_edge.runtimes.pipeline import RunConfig
from jepa_edge.runtimes.pipeline import run as run_bundle
from jepa_edge.runtimes.replay import replayed
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream
from tests.conftest import WINDOW

PICTURE = np.random.default_rng(3).normal(size=(1, 3, 2, 16, 16)).astype(np.float32)
SOUND = np.random.default_rng(4).normal(size=(1, 1, 8, 20)).astype(np.float32)


def step(index, video=PICTURE, audio=SOUND):
    return StepData(index=index, captured_ns=index, video=video, audio=audio)


@pytest.fixture
def stream(micro_bundle):
    return Stream(open_bundle(micro_bundle), "fp32")


def warm(gated):
    for index in range(WINDOW):
        gated.encode(step(index))
    return gated


def test_a_still_scene_is_encoded_until_warm_and_then_now_and_again(stream):
    gated = warm(GatedStream(stream, 0.05, longest=3))
    assert (gated.encoded, gated.skipped) == (WINDOW, 0)
    last = gated.encode(step(9))
    assert gated.skipped == 1
    for index in range(10, 18):
        assert np.array_equal(gated.encode(step(index))[1], last[1])
    assert (gated.encoded, gated.skipped) == (WINDOW + 2, 7)  # three left out, one encoded


def test_what_creeps_is_compared_with_what_was_last_encoded(stream):
    """Each step differs from the one before by less than the threshold; after two it is more."""
    gated = warm(GatedStream(stream, 0.05, longest=100))
    crept = [step(9 + k, PICTURE + np.float32(0.03 * (k + 1))) for k in range(6)]
    for one in crept:
        gated.encode(one)
    assert gated.skipped == 3
    assert gated.encoded == WINDOW + 3


def test_something_small_in_a_corner_is_motion(stream):
    moved = PICTURE.copy()
    moved[..., :2, :2] += 1.0
    assert np.abs(moved - PICTURE).mean() < 0.05 < changed_picture(moved, PICTURE)
    gated = warm(GatedStream(stream, 0.05))
    gated.encode(step(9, moved))
    assert gated.skipped == 0


def test_sound_alone_opens_the_gate_and_noise_of_one_kind_does_not(stream):
    gated = warm(GatedStream(stream, 0.3))
    gated.encode(step(9, audio=np.roll(SOUND, 5, axis=-1)))  # the same spectrum at other moments
    assert gated.skipped == 1
    louder = SOUND.copy()
    louder[:, :, 2] += 1.0
    gated.encode(step(10, audio=louder))
    assert gated.skipped == 1


def test_after_a_reset_nothing_old_is_given(stream):
    gated = warm(GatedStream(stream, 0.05))
    gated.reset()
    assert gated.encode(step(9)) is None
    assert gated.skipped == 0


def test_a_gated_flight_is_replayed_bit_for_bit(micro_bundle, tiny_clip, tmp_path):
    log = tmp_path / "flight.mcap"
    config = RunConfig(
        bundle=micro_bundle,
        camera=str(tiny_clip),
        mic="none",
        controller="none",
        fast=True,
        log=log,
        change_gate=1.0,
    )
    done = run_bundle(config)
    assert 0 < done.skipped < done.steps
    again = replayed(log, micro_bundle, None)
    assert again.identical == again.compared > done.steps
    with pytest.raises(WrongUseError, match="0 or more"):
        run_bundle(RunConfig(bundle=micro_bundle, camera="x", mic="x", change_gate=-1.0))
