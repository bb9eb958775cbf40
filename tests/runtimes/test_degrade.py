"""A board that is late or hot runs a cheaper precision, warm at once, and comes back."""

import json
import threading
import time

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.runtimes import pipeline
from jepa_edge.runtimes.board import UNKNOWN, Board, BoardState
from jepa_edge.runtimes.degrade import DegradeLimits, DegradingStream, Ladder, Rung, rungs_of
from jepa_edge.runtimes.loop import Loop, distance
from jepa_edge.runtimes.pipeline import RunConfig
from jepa_edge.runtimes.pipeline import run as run_bundle
from jepa_edge.runtimes.replay import replayed
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream
from tests.conftest import WINDOW

LIMITS = DegradeLimits(misses=3, of=5, calm_steps=10, most_calm_steps=40)
RNG = np.random.default_rng(5)


def noted(ladder, took_ms, count, board=UNKNOWN):
    return [ladder.note(took_ms, board) for _ in range(count)]


def test_it_goes_down_after_some_misses_not_after_one():
    ladder = Ladder([200.0] * 3, LIMITS)
    assert noted(ladder, 300.0, 1) + noted(ladder, 100.0, 10) == [0] * 11
    assert noted(ladder, 170.0, 3) == [0, 0, 1]
    assert noted(ladder, 170.0, 6)[-1] == 2  # and never below the last rung
    assert noted(ladder, 500.0, 20)[-1] == 2


def test_heat_and_throttling_are_reasons_too():
    for board in (BoardState(temperature_c=90.5), BoardState(throttled=True)):
        assert noted(Ladder([200.0] * 2, LIMITS), 10.0, 3, board)[-1] == 1
    cool = BoardState(temperature_c=89.0, throttled=False)
    assert noted(Ladder([200.0] * 2, LIMITS), 10.0, 50, cool)[-1] == 0


def test_it_comes_back_when_there_is_time_to_spare_and_waits_longer_each_time_it_was_wrong():
    ladder = Ladder([200.0] * 2, LIMITS)
    waits = []
    for _ in range(4):
        noted(ladder, 300.0, 3)
        assert ladder.rung == 1
        assert noted(ladder, 100.0, 100)[-1] == 1  # in time is not time to spare
        noted(ladder, 100.0, 1)
        waits.append(noted(ladder, 20.0, 100).index(0) + 1)
    assert waits == [10, 20, 40, 40]


def test_at_half_the_rate_there_is_twice_the_time():
    ladder = Ladder([200.0, 400.0], LIMITS)
    assert noted(ladder, 300.0, 3)[-1] == 1
    assert noted(ladder, 300.0, 100)[-1] == 1  # late for each step, in time for every second one
    assert noted(ladder, 119.0, 10)[-1] == 0


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
        (Rung("fp32"), Rung("int8")),
        open_stream("fp32"),
        open_stream,
        Late([200.0] * 2),
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
        (Rung("fp32"), Rung("int8")),
        open_stream("fp32"),
        open_stream,
        Late([200.0] * 2),
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
    assert rungs_of(manifest, None, slowest=1) == [("fp32", 1), ("int8", 1)]
    assert rungs_of(manifest, "int8", slowest=1) == [("int8", 1)]
    assert rungs_of(manifest, None, slowest=5)[1:] == [("int8", 1), ("int8", 2), ("int8", 4)]
    assert rungs_of(manifest, None, slowest=3)[1:] == [("int8", 1), ("int8", 2)]
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
    assert noted(Ladder([200.0], LIMITS), 900.0, count)[-1] == 0


class Halved(Ladder):
    """Wants half the rate from the first answer on."""

    def note(self, took_ms, board):
        self.rung = 1
        return 1


def halved(bundle, folder):
    return DegradingStream(
        (Rung("fp32"), Rung("fp32", 2)),
        Stream(bundle, "fp32"),
        lambda precision: Stream(bundle, precision),
        Halved([200.0, 400.0]),
        board=Board(folder),
        window=WINDOW,
    )


class Told:
    """A source of given steps."""

    def __init__(self, steps):
        self.given = steps

    def steps(self):
        return iter(self.given)


def test_a_lower_rate_sees_every_step_and_answers_some_as_well_as_ever(micro_bundle, tmp_path):
    bundle = open_bundle(micro_bundle)
    steps = [step(index) for index in range(4 * WINDOW)]
    slow = Loop(halved(bundle, tmp_path), age_limit_ms=1e12)
    slow.rate = slow.stream
    every = list(Loop(Stream(bundle, "fp32"), age_limit_ms=1e12).ticks(Told(steps)))
    some = list(slow.ticks(Told(steps)))
    usual = {tick.step: tick for tick in every}
    answered = [tick for tick in some if tick.state == "ok"]
    # The first answer lowers the rate: of what follows the even steps are left.
    assert [tick.step for tick in answered] == [WINDOW - 1, *range(WINDOW, 4 * WINDOW, 2)]
    for tick in answered:
        assert tick.latent == usual[tick.step].latent
        assert tick.prediction == usual[tick.step].prediction
    assert slow.stream.left_out == len(every) - len(some)
    # What comes is held against what was foreseen for just then, two steps before.
    before, last = usual[answered[-2].step], usual[answered[-1].step]
    foreseen = np.array(before.prediction[1])
    assert answered[-1].surprise == pytest.approx(distance(foreseen, np.array(last.latent)), 1e-2)


def test_what_is_wrong_is_told_at_a_lower_rate_too(micro_bundle, tmp_path):
    steps = [step(index) for index in range(3 * WINDOW)]
    wrong = 2 * WINDOW + 1
    steps[wrong] = msgspec.structs.replace(steps[wrong], video=None, audio=None, fault="no camera")
    loop = Loop(halved(open_bundle(micro_bundle), tmp_path), age_limit_ms=1e12)
    loop.rate = loop.stream
    holds = [tick for tick in loop.ticks(Told(steps)) if tick.state == "hold"]
    assert [(tick.step, tick.reason) for tick in holds] == [(wrong, "no camera")]


def test_an_engine_slower_than_the_steps_flies_at_half_the_rate_and_is_replayed(
    micro_bundle, tmp_path, monkeypatch
):
    encode = Stream._encode_window

    def slowly(stream):
        time.sleep(0.3)
        return encode(stream)

    monkeypatch.setattr(Stream, "_encode_window", slowly)
    quick = DegradeLimits(misses=1, of=2)
    monkeypatch.setattr(pipeline, "Ladder", lambda times: Ladder(times, quick))
    config = RunConfig(
        bundle=micro_bundle,
        precision="int8",
        camera="lavfi:testsrc2=size=32x32:rate=20,realtime",
        mic="none",
        controller=f"file:{tmp_path / 'ticks.jsonl'}",
        steps=25,
        degrade=True,
        log=tmp_path / "flight.mcap",
    )
    done = run_bundle(config)
    ticks = [json.loads(line) for line in (tmp_path / "ticks.jsonl").read_text().splitlines()]
    assert done.left_out > 3
    assert [tick["state"] for tick in ticks[-3:]] == ["ok"] * 3
    assert ticks[-1]["step"] - ticks[-2]["step"] in (2, 4)
    monkeypatch.undo()
    again = replayed(tmp_path / "flight.mcap", micro_bundle, None)
    assert again.largest_difference == 0.0
