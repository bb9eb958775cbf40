"""The robot's side: answers for their observation or none, through hedges, losses and restarts."""

import json
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from jepa_edge.bench.network.profiles import profile
from jepa_edge.bench.network.proxy import proxied
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError, WrongUseError
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.engine_remote import RemoteEngine
from jepa_edge.runtimes.hybrid import Breaker, BreakerConfig
from jepa_edge.runtimes.paths import Far
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.link import Link, LinkConfig
from jepa_edge.runtimes.remote.split import SplitMind
from jepa_edge.runtimes.remote.stream import RemoteConfig, RemoteStream
from jepa_edge.runtimes.remote.wire import LateError, LinkError, frames_from_video
from jepa_edge.runtimes.stream import Stream
from tests.cloud.bundles import SENSES, WIDTH, WINDOW

CLIP = str(Path("jepa_edge/assets/clips/movie-hello.mp4").resolve())


@pytest.fixture
def link(server):
    made = Link(LinkConfig(uri=f"grpc://{server.address}"))
    yield made
    made.close()


def remote(bundle, link, **config):
    config = {"deadline_s": 10.0, "uplink": "raw"} | config
    return RemoteStream(open_bundle(bundle), link, RemoteConfig(**config))


def assert_follows(stream, ours, steps):
    for step in steps:
        _, pooled = stream.encode(step)
        np.testing.assert_allclose(pooled, ours.encode(step)[1], rtol=1e-5, atol=1e-5)
        assert stream.is_warm == ours.is_warm
        if ours.is_warm:
            np.testing.assert_allclose(stream.predict(), ours.predict(), rtol=1e-4, atol=1e-5)


def test_frames_come_back_from_what_the_model_sees(steps):
    for step in steps:
        frames = frames_from_video(step.video, SENSES.video)
        from jepa_edge.media.features import video_from_frames

        np.testing.assert_array_equal(video_from_frames(frames, SENSES.video)[None], step.video)


def test_a_graph_elsewhere_is_an_engine(link, cloud_bundle):
    bundle = open_bundle(cloud_bundle)
    graphs = bundle.manifest.precisions["fp32"].graphs
    random = np.random.default_rng(0)
    for name in ("step", "predictor", "rollout"):
        far, near = RemoteEngine(link, name, graphs[name]), open_engine(bundle, name, threads=1)
        inputs = {s.name: random.standard_normal(s.shape, dtype=np.float32) for s in near.inputs}
        ours = near.run(inputs)
        for key, array in far.run(inputs).items():
            np.testing.assert_array_equal(array, ours[key])
    with pytest.raises(CheckFailedError, match="serve the same bundle"):
        RemoteEngine(link, "predictor", graphs["step"])
    with pytest.raises(LinkError, match="NOT_FOUND"):
        RemoteEngine(link, "nothing", graphs["step"])


def test_a_stream_elsewhere_gives_what_one_on_board_gives(link, cloud_bundle, steps):
    assert_follows(remote(cloud_bundle, link), Stream(open_bundle(cloud_bundle), None), steps)


def test_an_answer_that_is_lost_leaves_no_hole(link, cloud_bundle, steps):
    stream, ours = remote(cloud_bundle, link), Stream(open_bundle(cloud_bundle), None)
    assert_follows(stream, ours, steps[:5])
    for step in steps[5:7]:
        stream.begin(step).cancel()  # nobody listens to these
        ours.encode(step)
    assert_follows(stream, ours, steps[7:])


def test_a_late_answer_is_never_taken_for_another_step(link, cloud_bundle, steps):
    stream = remote(cloud_bundle, link)
    stream.encode(steps[0])
    old = stream.begin(steps[1])
    while not old.done:
        time.sleep(0.001)
    stream.begin(steps[2])
    with pytest.raises(LateError, match="to step 1, now is step 2"):
        stream.take(old)


def test_no_server_is_told_at_once_and_no_answer_at_the_deadline(cloud_bundle, steps, server):
    nobody = Link(LinkConfig(uri="grpc://127.0.0.1:9"))
    with pytest.raises(LinkError, match="no server at"):
        remote(cloud_bundle, nobody).encode(steps[0])
    nobody.close()
    with proxied(("127.0.0.1", server.port), profile("lan"), 0) as proxy:
        link = Link(LinkConfig(uri=f"grpc://127.0.0.1:{proxy.port}"))
        stream = remote(cloud_bundle, link, deadline_s=0.3)
        remote(cloud_bundle, link).encode(steps[0])  # connects
        proxy.cut()
        began = time.monotonic()
        with pytest.raises(LateError, match="no answer within"):
            stream.encode(steps[0])
        assert 0.25 < time.monotonic() - began < 2
        proxy.heal()
        ours = Stream(open_bundle(cloud_bundle), None)
        ours.encode(steps[0])
        assert_follows(remote_with_deadline(stream, 10.0), ours, steps[1:])
        link.close()


def remote_with_deadline(stream, deadline_s):
    stream.config = msgspec.structs.replace(stream.config, deadline_s=deadline_s)
    return stream


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_goes_on_with_a_warm_window(
    serve, cloud_bundle, steps
):
    ours = Stream(open_bundle(cloud_bundle), None)
    with serve(cloud_bundle) as first:
        link = Link(LinkConfig(uri=f"grpc://{first.address}"))
        stream = remote(cloud_bundle, link)
        assert_follows(stream, ours, steps[:6])
        first.kill()
        with pytest.raises(LinkError):
            stream.encode(steps[6])
        ours.encode(steps[6])
    with serve(cloud_bundle, "--port", str(first.port)):
        link.renew()
        _, pooled = stream.encode(steps[7])
        assert stream.is_warm  # the window came with the step
        fresh = Stream(open_bundle(cloud_bundle), None)
        expected = [fresh.encode(step) for step in steps[8 - WINDOW : 8]][-1][1]
        np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-5)
        link.close()


def test_a_hedge_answers_when_the_first_connection_is_stuck(server, cloud_bundle, steps):
    """The second connection of the same link goes round the proxy that is cut."""
    with proxied(("127.0.0.1", server.port), profile("lan"), 0) as proxy:
        link = Link(LinkConfig(uri=f"grpc://127.0.0.1:{proxy.port}", hedge_ms=50))
        stream, ours = remote(cloud_bundle, link), Stream(open_bundle(cloud_bundle), None)
        assert_follows(stream, ours, steps[:2])
        round_it = Link(LinkConfig(uri=f"grpc://{server.address}"))
        round_it.stub(0)
        link._channels[1] = round_it._channels[0]
        proxy.cut()
        assert_follows(stream, ours, steps[2:6])
        assert stream.last.hedged
        proxy.heal()
        assert_follows(stream, ours, steps[6:8])
        link.close()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine": "cloud"}, "unknown engine"),
        ({"engine": "grpc://x:1", "uplink": "gif"}, "unknown uplink"),
        ({"engine": "grpc://x:1", "deadline_ms": 0}, "must be above 0"),
    ],
)
def test_flags_are_checked(fields, says):
    with pytest.raises(WrongUseError, match=says):
        Far(**fields)


@pytest.mark.parametrize(
    ("engine", "uplink"),
    [
        ("grpc://{}", "jpeg"),
        ("grpc://{}", "int8"),
        pytest.param("grpc://{}", "raw", marks=pytest.mark.slow),
        pytest.param("grpc://{}", "pooled", marks=pytest.mark.slow),
        pytest.param("hybrid:grpc://{}", "jpeg", marks=pytest.mark.slow),
        pytest.param("hybrid:grpc://{}", "int8", marks=pytest.mark.slow),
    ],
)
def test_the_same_run_goes_through_a_server(server, cloud_bundle, tmp_path, engine, uplink):
    out = tmp_path / "ticks.jsonl"
    command = [sys.executable, "-m", "jepa_edge.runtimes", "--bundle", str(cloud_bundle)]
    command += ["--camera", CLIP, "--steps", "8", "--fast", "--deadline-ms", "5000"]
    command += ["--age-limit-ms", "5000", "--goal", CLIP, "--uplink", uplink, "--hedge-ms", "400"]
    command += ["--controller", f"file:{out}", "--engine", engine.format(server.address)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ticks = [json.loads(line) for line in out.read_text().splitlines()]
    planned = ticks if uplink in ("jpeg", "raw") else ticks[WINDOW - 1 :]
    assert {tick["path"] for tick in planned} == {"cloud"}
    assert [tick["state"] for tick in ticks] == ["warming"] * (WINDOW - 1) + ["ok"] * 5
    assert all(len(tick["action"]) == 4 for tick in ticks[WINDOW - 1 :])


GOAL = np.linspace(-1, 1, WIDTH).astype(np.float32)


def split(bundle, link, uplink, *, hybrid=False, deadline_s=10.0):
    bundle = open_bundle(bundle)
    breaker = own = None
    if hybrid:
        rollout = open_engine(bundle, "rollout", threads=1)
        own = Pilot(Planner(rollout, PlannerConfig(), bundle.manifest.model), GOAL)
        breaker = Breaker(BreakerConfig(least_s=0.1))
    config = RemoteConfig(deadline_s=deadline_s, uplink=uplink)
    edge = Stream(bundle, None, threads=1)
    return SplitMind(edge, link, config, GOAL, breaker=breaker, own=own)


def acted(mind, step):
    _, pooled = mind.encode(step)
    return mind.act(pooled, ready=mind.is_warm)


@pytest.mark.parametrize(
    ("uplink", "most_bytes", "close"), [("pooled", 700, 0), ("int8", 700, 0.5)]
)
def test_latents_in_place_of_frames_lead_to_the_same_plans(
    link, cloud_bundle, steps, uplink, most_bytes, close
):
    mind = split(cloud_bundle, link, uplink)
    mind.connect()
    bundle = open_bundle(cloud_bundle)
    planner = Planner(
        open_engine(bundle, "rollout", threads=1), PlannerConfig(), bundle.manifest.model
    )
    stream, ours = Stream(bundle, None, threads=1), []
    for step in steps:
        ours.append(stream.encode(step)[1])
        before = mind.bytes_sent
        plan = acted(mind, step)
        if plan is None:
            assert not mind.is_warm
            continue
        planner.reset()
        right = planner.plan(np.stack(ours[-2:]), GOAL)
        assert np.abs(plan.actions - right.actions).max() <= close + 1e-5
        assert mind.path == "cloud"
        assert 0 < mind.bytes_sent - before < most_bytes
    assert mind.bytes_received > 0


def test_a_split_without_an_answer_in_time_holds_or_plans_on_board(server, cloud_bundle, steps):
    with proxied(("127.0.0.1", server.port), profile("lan"), 0) as proxy:
        link = Link(LinkConfig(uri=f"grpc://127.0.0.1:{proxy.port}"))
        mind = split(cloud_bundle, link, "int8", hybrid=True)
        alone = split(cloud_bundle, link, "int8")
        for step in steps[:5]:
            acted(mind, step), acted(alone, step)
        assert mind.path == "cloud"
        proxy.cut()
        for split_mind in (mind, alone):
            split_mind.config = RemoteConfig(deadline_s=0.2, uplink="int8")
        with pytest.raises(LinkError):
            acted(alone, steps[5])
        for step in steps[5:9]:
            assert acted(mind, step) is not None
            assert mind.path == "edge"
        assert mind.fallbacks >= 1
        assert mind.breaker.path == "edge"
        proxy.heal()
        mind.config = RemoteConfig(deadline_s=10, uplink="int8")
        until = time.monotonic() + 60
        while mind.breaker.path == "edge":
            assert time.monotonic() < until
            assert acted(mind, steps[9]) is not None
            while mind._probe and not mind._probe.done:
                time.sleep(0.001)
        acted(mind, steps[10])
        assert mind.path == "cloud"
        link.close()
