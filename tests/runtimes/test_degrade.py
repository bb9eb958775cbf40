"""A board that is late or hot runs a cheaper precision, warm at once, and comes back."""

import threading

import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.runtimes.board import UNKNOWN, Board, BoardState
from jepa_edge.runtimes.degrade import DegradeLimits, DegradingStream, Ladder, rungs_of
from jepa_edge.runtimes.pipeline import RunConfig
from jepa_edge.runtimes.pipeline import run as run_bundle
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream
from tests.conftest import WINDOW

LIMITS = DegradeLimits(misses=3, of=5, calm_steps=10, most_calm_steps=40)
RNG = np.random.default_rng(5)


def noted(ladder, took_ms, count, board=UNKNOWN):
    return [ladder.note(took_ms, board) for _ in range(count)]


def test_it_goes_down_after_some_misses_not_after_one():
    ladder = Ladder(3, 200.0, LIMITS)
    assert noted(ladder, 300.0, 1) + noted(ladder, 100.0, 10) == [0] * 11
    assert noted(ladder, 170.0, 3) == [0, 0, 1]
    assert noted(ladder, 170.0, 6)[-1] == 2  # and never below the last rung
    assert noted(ladder, 500.0, 20)[-1] == 2


def test_heat_and_throttling_are_reasons_too():
    for board in (BoardState(temperature_c=90.5), BoardState(throttled=True)):
        assert noted(Ladder(2, 200.0, LIMITS), 10.0, 3, board)[-1] == 1
    cool = BoardState(temperature_c=89.0, throttled=False)
    assert noted(Ladder(2, 200.0, LIMITS), 10.0, 50, cool)[-1] == 0


def test_it_comes_back_when_there_is_time_to_spare_and_waits_longer_each_time_it_was_wrong():
    ladder = Ladder(2, 200.0, LIMITS)
    waits = []
    for _ in range(4):
        noted(ladder, 300.0, 3)
        assert ladder.rung == 1
        assert noted(ladder, 100.0, 100)[-1] == 1  # in time is not time to spare
        noted(ladder, 100.0, 1)
        waits.append(noted(ladder, 20.0, 100).index(0) + 1)
    assert waits == [10, 20, 40, 40]


def step(index):
    video = RNG.normal(size=(1, 3, 2, 16, 16)).astype(np.float32)
    audio = RNG.normal(size=(1, 1, 8, 20)).astype(np.float32)
    return StepData(index=index, captured_ns=index, video=video, audio=audio)


class Late(Ladder):
    """Wants the second rung from the first step on."""

    def note(self, took_ms, board):
        self.rung = 1
        return 1


def test_the_cheaper_stream_takes_over_warm_and_knows_every_step(micro_bundle, tmp_path):
    bundle = open_bundle(micro_bundle)
    opened, gate = {}, threading.Event()

    def open_stream(precision):
        if precision == "int8":
            assert gate.wait(10)
        opened[precision] = Stream(bundle, precision)
        return opened[precision]

    stream = DegradingStream(
        ("fp32", "int8"),
        open_stream("fp32"),
        open_stream,
        Late(2, 200.0),
        board=Board(tmp_path),
        window=WINDOW,
    )
    alone = Stream(bundle, "int8")
    for index in range(WINDOW + 3):
        one = step(index)
        got, other = stream.encode(one), alone.encode(one)
        stream.predict()
        if index == WINDOW:
            assert stream.precision == "fp32"  # it is still being opened: nobody waits
            gate.set()
            stream._coming.join()
    assert (stream.precision, stream.changes) == ("int8", 1)
    assert stream.is_warm
    assert np.array_equal(got[1], other[1])


def test_a_precision_that_cannot_be_opened_is_told_and_flown_without(
    micro_bundle, tmp_path, capsys
):
    def open_stream(precision):
        if precision == "int8":
            raise CheckFailedError("no such kernel")
        return Stream(open_bundle(micro_bundle), precision)

    stream = DegradingStream(
        ("fp32", "int8"),
        open_stream("fp32"),
        open_stream,
        Late(2, 200.0),
        board=Board(tmp_path),
        window=WINDOW,
    )
    for index in range(WINDOW + 2):
        stream.encode(step(index))
        stream.predict()
        if stream._coming:
            stream._coming.join()
    assert stream.precision == "fp32"
    assert capsys.readouterr().err.count("no such kernel") == 1


def test_a_run_may_be_told_to_degrade(micro_bundle, tiny_clip):
    manifest = open_bundle(micro_bundle).manifest
    assert rungs_of(manifest, None) == ["fp32", "int8"]
    assert rungs_of(manifest, "int8") == ["int8"]
    config = RunConfig(
        bundle=micro_bundle,
        camera=str(tiny_clip),
        mic="none",
        controller="none",
        fast=True,
        degrade=True,
    )
    done = run_bundle(config)
    assert done.steps > 5
    assert done.precision == "fp32"  # it had time enough


@pytest.mark.parametrize("count", [1, 3])
def test_one_rung_is_never_left(count):
    assert noted(Ladder(1, 200.0, LIMITS), 900.0, count)[-1] == 0
