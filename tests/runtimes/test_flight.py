"""The flight log and what reads it: replay, Foxglove's reader, Prometheus; and late engines."""

import json
import queue
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError, InputError, WrongUseError
from jepa_edge.runtimes import flight as flights
from jepa_edge.runtimes.flight import Flight, header_of, packed_video, unpacked
from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.pipeline import RunConfig
from jepa_edge.runtimes.pipeline import run as run_bundle
from jepa_edge.runtimes.replay import replay, replayed
from jepa_edge.runtimes.telemetry import Deadlines, Histogram, Metrics
from jepa_edge.runtimes.timely import Timely


@pytest.fixture
def flown(micro_bundle, tiny_clip, tmp_path):
    log = tmp_path / "flight.mcap"
    config = RunConfig(
        bundle=micro_bundle,
        camera=str(tiny_clip),
        mic=str(tiny_clip),
        controller=f"file:{tmp_path / 'ticks.jsonl'}",
        fast=True,
        log=log,
    )
    return log, run_bundle(config)


def test_a_flight_flies_again_bit_for_bit(flown, micro_bundle):
    log, summary = flown
    again = replayed(log, micro_bundle, None)
    assert again.steps == summary.steps > 5
    assert again.compared > summary.steps
    assert again.identical == again.compared
    assert again.largest_difference == 0
    other = replayed(log, micro_bundle, "int8")
    assert 0 < other.largest_difference < 1
    with pytest.raises(CheckFailedError, match="gives other latents"):
        replay(log, micro_bundle, "int8", 0.0, False)
    replay(log, micro_bundle, "int8", 1.0, False)


def test_foxglove_s_own_reader_reads_the_log(flown, tmp_path):
    from mcap.reader import make_reader

    log, summary = flown
    with log.open("rb") as file:
        reader = make_reader(file)
        found = reader.get_summary()
        topics = {channel.topic for channel in found.channels.values()}
        assert topics == {"/step", "/latents", "/tick", "/camera"}
        messages = [json.loads(m.data) for _, _, m in reader.iter_messages("/tick")]
        pictures = [json.loads(m.data) for _, _, m in reader.iter_messages("/camera")]
    lines = (tmp_path / "ticks.jsonl").read_text().splitlines()
    assert messages == [json.loads(line) for line in lines]
    assert len(pictures) == summary.steps
    assert pictures[0]["format"] == "jpeg"


def test_a_log_that_broke_off_flies_as_far_as_it_goes(flown, micro_bundle, tmp_path):
    log, summary = flown
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(log.read_bytes()[: log.stat().st_size * 6 // 10])
    senses = open_bundle(micro_bundle).manifest.senses
    assert len(list(Flight(cut, senses).steps())) <= summary.steps
    assert header_of(cut).bundle == "micro"


def test_what_is_no_log_of_this_bundle_is_refused(flown, micro_bundle, tmp_path):
    log, _ = flown
    with pytest.raises(InputError, match="no flight log"):
        replayed(tmp_path / "none.mcap", micro_bundle, None)
    noise = tmp_path / "noise.mcap"
    noise.write_bytes(b"noise" * 100)
    with pytest.raises(InputError, match="no flight log"):
        header_of(noise)
    manifest = micro_bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"micro"', '"other"', 1))
    with pytest.raises(InputError, match="was flown by micro"):
        replayed(log, micro_bundle, None)


def test_strange_pictures_are_kept_as_they_are(micro_bundle):
    spec = open_bundle(micro_bundle).manifest.senses.video
    video = np.random.default_rng(0).normal(size=(1, 3, 2, spec.height, spec.width))
    video = video.astype(np.float32)
    video[0, 0, 0, 0, 0] = np.nan
    packed = packed_video(video, spec)
    assert not packed.pixels
    np.testing.assert_array_equal(unpacked(packed), video)


def test_a_full_disk_loses_the_log_and_not_the_flight(micro_bundle, tiny_clip, tmp_path):
    program = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from jepa_edge.runtimes.__main__ import main\n"
        f"sys.argv = ['run', '--bundle', {str(micro_bundle)!r}, '--camera', {str(tiny_clip)!r},"
        f" '--fast', '--repeat', '--steps', '200', '--log', {str(tmp_path / 'l.mcap')!r},"
        " '--json']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert account["steps"] == 200
    assert account["log_lost"] > 0
    assert "File too large" in account["log_trouble"]
    assert not (tmp_path / "l.mcap").exists()


def test_a_slow_disk_loses_steps_and_counts_them(flown, micro_bundle, tmp_path, monkeypatch):
    senses = open_bundle(micro_bundle).manifest.senses
    gate = threading.Event()
    add = flights._Writer.add
    monkeypatch.setattr(flights._Writer, "add", lambda *given: (gate.wait(10), add(*given)))
    log = flights.FlightLog(tmp_path / "slow.mcap", header_of(flown[0]), senses)
    (step, _), *_ = Flight(flown[0], senses).steps()
    for index in range(flights.WAITING + 20):
        log.add(step, tick(index), None, None)
    assert log.lost >= 19
    gate.set()
    log.close()
    assert (
        len(list(Flight(tmp_path / "slow.mcap", senses).steps())) == flights.WAITING + 20 - log.lost
    )


def tick(step, **fields):
    return Tick(step=step, captured_ns=0, state="ok", latency_ms=5.0, age_ms=7.0, **fields)


def test_histograms_tell_percentiles_within_five_percent():
    times = np.random.default_rng(0).lognormal(2.0, 1.0, 5000)
    histogram = Histogram(20.0)
    for ms in times:
        histogram.add(float(ms))
    for percent in (1, 50, 99):
        assert histogram.percentile(percent) == pytest.approx(
            np.percentile(times, percent), rel=0.05
        )
    assert histogram.over == (times > 20).sum()
    assert Histogram(1.0).percentile(50) == 0
    deadlines = Deadlines(10.0, 100.0)
    deadlines.add(tick(0, encode_ms=11.0), 1.0)
    stages = deadlines.summary()
    assert stages["encode"].over_deadline == 1
    assert stages["age"].max_ms == 8.0
    assert "plan" not in stages


@pytest.mark.filterwarnings("ignore")
def test_prometheus_reads_the_metrics():
    metrics = Metrics("0")
    metrics.add(tick(0, encode_ms=3.0, surprise=0.25), 1.0)
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics") as answer:
        text = answer.read().decode()
    metrics.close()
    assert 'jepa_edge_ticks_total{state="ok"} 1.0' in text
    assert 'jepa_edge_stage_seconds_count{stage="encode"} 1.0' in text
    assert "jepa_edge_surprise 0.25" in text
    with pytest.raises(WrongUseError, match="cannot listen"):
        Metrics("nowhere")


def test_an_engine_that_hangs_is_a_hold_in_time_and_its_end_is_an_end():
    gate: queue.Queue = queue.Queue()

    def ticks():
        yield tick(0)
        gate.get()
        yield tick(1)

    found = Timely(ticks(), 0.05)
    assert next(found).state == "ok"
    late = next(found)
    assert (late.state, late.step) == ("hold", 0)
    assert "late" in late.reason
    assert next(found).state == "hold"
    gate.put(None)
    rest = list(found)
    assert rest[-1].step == 1


def test_an_error_of_the_loop_reaches_the_person():
    def ticks():
        yield tick(0)
        raise InputError("the camera burnt")

    with pytest.raises(InputError, match="burnt"):
        list(Timely(ticks(), 1.0))
