"""Live sources: FFmpeg's real-time generators, a stream over HTTP that breaks off, the clock."""

import itertools
import json
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import AudioSpec, InputError, Senses, VideoSpec, WrongUseError
from jepa_edge.media.features import video_from_frames
from jepa_edge.runtimes.capture import HEARD_S, Backoff, Capture, StreamClock, address, redacted
from jepa_edge.runtimes.live import NEVER_NS, Arrivals, LiveSource, _SoundBuffer
from jepa_edge.runtimes.loop import Loop
from jepa_edge.runtimes.sources import open_source
from jepa_edge.runtimes.stream import Stream

SENSES = Senses(video=VideoSpec(height=16, width=16), audio=AudioSpec(mel_bins=8))
FILM = (
    "lavfi:testsrc2=size=64x64:rate=30,realtime[out0];"
    "sine=frequency=440:sample_rate=16000,arealtime[out1]"
)


def first_good(source, count):
    """The first steps without a fault; the ones before the device woke up are left out."""
    return list(itertools.islice((s for s in source.steps() if not s.fault), count))


def test_picture_and_sound_come_step_by_step_with_their_age():
    with closing(LiveSource(FILM, FILM, SENSES)) as source:
        steps = first_good(source, 6)
        now_ns = time.monotonic_ns()
    indices = [step.index for step in steps]
    assert indices == sorted(set(indices))
    assert all(step.video.shape == (1, 3, 2, 16, 16) for step in steps)
    assert all(step.audio.shape == (1, 1, 8, 20) for step in steps)
    assert all(step.captured_ns <= now_ns for step in steps)
    gaps_s = np.diff([step.captured_ns for step in steps]) / 1e9
    steps_apart = np.diff(indices)
    assert gaps_s == pytest.approx(0.2 * steps_apart, abs=0.12)
    loudest = [int(step.audio[0, 0].mean(1).argmax()) for step in steps[1:]]
    assert len(set(loudest)) == 1  # a steady tone


def test_a_slow_reader_gets_the_newest_step_and_the_count_of_the_others():
    with closing(LiveSource(FILM, "none", SENSES)) as source:
        steps = source.steps()
        before = next(s for s in steps if not s.fault)
        time.sleep(1.1)
        after = next(steps)
    assert after.dropped >= 4
    assert after.index == before.index + after.dropped + 1
    assert after.audio is not None  # silence: the model hears, but nobody gave it a microphone


def test_a_model_runs_on_a_live_source(micro_bundle):
    stream = Stream(open_bundle(micro_bundle), "fp32")
    loop = Loop(stream, age_limit_ms=2000.0)
    with closing(LiveSource(FILM, FILM, SENSES)) as source:
        ticks = loop.ticks(source)
        found = next((t for t in itertools.islice(ticks, 40) if t.state == "ok"), None)
    assert found is not None
    assert 0 <= found.age_ms < 2000


class _Streams(BaseHTTPRequestHandler):
    """MPEG-TS at its real rate; each connection ends after `lasts_s`, as a bad link does."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "video/mp2t")
        self.end_headers()
        self.server.served += 1
        ends = time.monotonic() + self.server.lasts_s
        try:
            for at_s, data in self.server.film:
                while time.monotonic() < ends - self.server.lasts_s + at_s:
                    time.sleep(0.01)
                if time.monotonic() > ends:
                    return
                self.wfile.write(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *_args):
        pass


class _Sink:
    """A file for PyAV that keeps what was written between two looks."""

    def __init__(self):
        self.data = b""

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def mpeg_ts(seconds):
    """(time, bytes) pairs of an MPEG-TS film with a frame each 1/10 s."""
    sink = _Sink()
    rng = np.random.default_rng(0)
    with av.open(sink, "w", format="mpegts", options={"flush_packets": "1"}) as out:
        video = out.add_stream("mpeg2video", rate=25)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        video.options = {"g": "5", "bf": "0"}
        scene = rng.integers(0, 255, (64, 128, 3), np.uint8)
        for k in range(int(seconds * 25)):
            picture = np.ascontiguousarray(np.roll(scene, k, axis=1)[:, :64])
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            data, sink.data = sink.data, b""
            yield k / 25, data


@pytest.fixture
def server():
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Streams)
    served.daemon_threads = True
    served.film, served.lasts_s, served.served = list(mpeg_ts(6)), 2.0, 0
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield served
    served.shutdown()
    served.server_close()


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_told_and_comes_back(server):
    url = f"http://user:secret@127.0.0.1:{server.server_address[1]}/film.ts"
    deaf = Senses(video=SENSES.video, audio=None)
    faults, good_after = [], 0
    with closing(LiveSource(url, "none", deaf)) as source:
        for step in itertools.islice(source.steps(), 60):
            if step.fault:
                faults.append(step.fault)
                assert step.video is None
            elif server.served >= 2 and faults:
                good_after += 1
            if good_after >= 3:
                break
    assert good_after >= 3
    assert any("no frame" in fault for fault in faults)
    assert not any("secret" in fault for fault in faults)


def test_what_cannot_be_opened_is_told_without_its_password():
    with pytest.raises(InputError, match="cannot open rtsp://\\*\\*\\*@127.0.0.1") as told:
        LiveSource("rtsp://user:secret@127.0.0.1:9/x", "none", SENSES)
    assert "secret" not in str(told.value)
    with pytest.raises(InputError, match="cannot open /dev/video77"):
        LiveSource("/dev/video77", "none", SENSES)
    with pytest.raises(InputError, match="has no sound"):
        LiveSource("lavfi:testsrc2=size=64x64", "lavfi:testsrc2=size=64x64", SENSES)
    assert redacted("rtsp://a:b@h/x") == "rtsp://***@h/x"


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("/dev/video0?video_size=320x180&framerate=30", ("v4l2", "320x180", "30")),
        ("alsa:hw:Card,1,0?channels=1&sample_rate=16000", ("alsa", "1", "16000")),
        ("rtsp://robot/cam?channel=1", (None, "nobuffer", "low_delay", "tcp")),
    ],
)
def test_a_device_is_asked_for_what_its_address_says(uri, asked):
    name, kind, options = address(uri)
    assert (kind, *options.values()) == asked
    assert name == (uri if kind is None else uri.removeprefix("alsa:").partition("?")[0])


@pytest.mark.parametrize("uri", ["/dev/video0?size=320x180", "alsa:hw:1?channels="])
def test_a_setting_that_a_device_has_not_is_told(uri):
    with pytest.raises(WrongUseError, match=r"size=320x180.*video_size|channels=.*sample_rate"):
        LiveSource(uri, uri, SENSES)


class _Ears:
    """Keeps what it hears."""

    def __init__(self):
        self.heard = []

    def hear(self, captured_ns, samples):
        self.heard.append((captured_ns, samples))


def test_sound_in_tiny_packets_is_handed_on_in_larger_pieces_without_a_hole():
    ears = _Ears()
    deaf_to_nothing = Senses(video=None, audio=SENSES.audio)
    tone = "lavfi:sine=frequency=500:sample_rate=16000:samples_per_frame=32"
    capture = Capture(tone, deaf_to_nothing, ears)
    capture.start()
    deadline = time.monotonic() + 10
    while len(ears.heard) < 40 and time.monotonic() < deadline:
        time.sleep(0.01)
    capture.close()
    pieces = [samples for _, samples in ears.heard]
    assert min(map(len, pieces)) >= HEARD_S * 16_000 > 32
    sound = np.concatenate(pieces)[: 16_000 // 5]
    expected = np.sin(2 * np.pi * 500 * np.arange(len(sound)) / 16_000)
    assert np.corrcoef(sound, expected)[0, 1] > 0.999


def test_the_clock_takes_the_least_delay_for_the_devices_own():
    clock = StreamClock()
    delays_ms = [50, 80, 20, 300, 25, 20]
    seen = []
    for k, delay in enumerate(delays_ms):
        arrived = round((k * 0.1 + delay / 1e3) * 1e9)
        seen.append(clock.captured_ns(k * 0.1, arrived))
    least = [min(delays_ms[: k + 1]) for k in range(len(delays_ms))]
    expected = [round((k * 0.1 + delay / 1e3) * 1e9) for k, delay in enumerate(least)]
    assert seen == pytest.approx(expected, abs=0.5e6)


def test_a_clock_that_begins_anew_is_followed():
    clock = StreamClock()
    clock.captured_ns(100.0, 5_000_000_000)
    assert clock.captured_ns(0.0, 6_000_000_000) == 6_000_000_000


def test_sound_is_placed_by_time_and_gaps_are_silent():
    buffer = _SoundBuffer(SENSES)
    rng = np.random.default_rng(0)
    first, second = (rng.uniform(-1, 1, 1600).astype(np.float32) for _ in range(2))
    buffer.add(0.0, first)
    buffer.add(0.101, second)  # jitter: joined on
    assert np.array_equal(buffer.cut(0, 3200), np.concatenate((first, second)))
    buffer.add(0.4, first)  # a gap
    heard = buffer.cut(3200, 4800)
    assert np.array_equal(heard[:3200], np.zeros(3200, np.float32))
    assert np.array_equal(heard[3200:], first)
    buffer.add(0.45, second)  # overlaps: what is known stays
    assert np.array_equal(buffer.cut(6400, 1600), first)


def has_gstreamer():
    command = [
        sys.executable,
        "-c",
        "from jepa_edge.runtimes.capture_gst import _gstreamer as g; g()",
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_gstreamer(), reason="needs Debian's python3-gi and GStreamer plugins")
def test_a_gstreamer_pipeline_is_a_camera_and_another_a_microphone():
    """In a process of its own: gi leaves threads and warnings behind."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("gst_peer.py"))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["steps"] == 8
    assert found["video"] == [1, 3, 2, 16, 16]
    assert found["loud"]
    assert 0 <= found["oldest_ms"] < 1500
    assert "nvarguscamerasrc" in found["refusal"]


def test_a_folder_of_pictures_is_a_film(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{index:03}.png"), frame[..., ::-1])
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path), str(tmp_path), SENSES, fast=True)
    steps = list(source.steps())
    assert len(steps) == 2
    shown = video_from_frames(frames[2:4], SENSES.video)
    np.testing.assert_array_equal(steps[1].video[0], shown)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(InputError, match="bad.png"):
        open_source(str(tmp_path), "none", SENSES)


def test_devices_are_opened_again_less_and_less_often():
    wait = Backoff()
    assert [wait.next_s() for _ in range(6)] == [0.5, 1, 2, 4, 8, 8]
    wait.reset()
    assert wait.next_s() == 0.5


def test_a_microphone_200_ppm_too_fast_stays_in_place_for_ten_minutes():
    """Its clock gains 0.12 s in ten minutes; its samples must not slide against the picture."""
    random = np.random.default_rng(0)
    clock, rate, wrong = StreamClock(), 16_000, 1 + 200e-6
    errors = []
    for piece in range(30_000):  # of 20 ms, by the microphone's own count
        begin_s = piece * 0.02
        true_ns = round(begin_s / wrong * 1e9)
        arrived_ns = true_ns + round((0.02 / wrong + random.exponential(0.002)) * 1e9)
        placed = clock.captured_ns(begin_s, arrived_ns, 320 / rate)
        errors.append((placed - true_ns) / 1e6)
    late = np.array(errors[1000:])
    assert np.abs(late - np.median(late)).max() < 10.0  # ms
    assert abs(late[-1000:].mean() - late[:1000].mean()) < 2.0


class _Fed(LiveSource):
    """A camera that is a loop of the test."""

    def _captures(self, camera, mic):
        return []

    def feed(self, seconds):
        ends = time.monotonic() + seconds
        picture = np.zeros((16, 16, 3), np.uint8)
        while time.monotonic() < ends:
            self.see(time.monotonic_ns(), picture)
            time.sleep(0.033)
        self.stopped_ns = time.monotonic_ns()


def test_a_camera_that_falls_silent_is_a_fault_before_its_step_is_over():
    blind = Senses(video=VideoSpec(height=16, width=16))
    with closing(_Fed("fed", "none", blind, 0.15)) as source:
        source.captures = [_Untroubled()]
        feeder = threading.Thread(target=source.feed, args=(1.1,))
        feeder.start()
        steps = source.steps()
        assert next(step for step in steps if not step.fault)
        faulty = next(step for step in steps if step.fault)
        told_ns = time.monotonic_ns()
        assert "camera gives nothing for" in faulty.fault
        assert (told_ns - source.stopped_ns) / 1e6 < 400  # 150, and what a busy machine adds
        feeder.join()
        assert next(steps).fault  # and from now on once a step, when it is late
        assert time.monotonic_ns() - told_ns > 1e8
        again = threading.Thread(target=source.feed, args=(1.0,))
        again.start()
        assert next(step for step in steps if not step.fault).index > faulty.index
        again.join()


class _Untroubled:
    trouble = ""

    def close(self):
        pass


def test_a_device_that_gives_in_bursts_is_given_twice_its_longest_gap():
    pulse = Arrivals(0.15)
    assert pulse.silent_ns == NEVER_NS
    at_ns = 0
    for k in range(20):
        at_ns += 200_000_000 if k % 5 == 0 else 1_000_000
        pulse.note(at_ns)
    assert pulse.limit_s == pytest.approx(0.4)
    pulse.note(at_ns + 3_000_000_000)  # a stall is not what is usual
    assert pulse.limit_s == pytest.approx(0.4)
    assert Arrivals(0.0).silent_ns == NEVER_NS
