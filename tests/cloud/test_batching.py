"""Batches of a real graph: the same numbers, fewer computations, and nothing for nobody."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jepa_edge.bench.network.load import steps_for
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import Senses, VideoSpec, WrongUseError
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.serve.batching import (
    DEADLINE,
    BatchConfig,
    BatchingEngine,
    ExpiredError,
    OverloadedError,
)
from jepa_edge.runtimes.stream import Stream

BATCH, ROBOTS = 4, 3
SENSES_OF_MICRO = Senses(video=VideoSpec(height=32, width=32))
CLIP = str(Path("jepa_edge/assets/clips/movie-hello.mp4").resolve())


@pytest.fixture
def made(cloud_bundle):
    """`made(**config)`: the batching engine of `step`, and the sizes of its computations."""
    engines = []

    def make(**config):
        sizes = []
        config = BatchConfig(**{"threads": 1} | config)
        engine = BatchingEngine(
            open_bundle(cloud_bundle), "step", None, config, lambda _, size, __: sizes.append(size)
        )
        engines.append(engine)
        return engine, sizes

    yield make
    for engine in engines:
        engine.close()


def inputs_of(engine, seed):
    random = np.random.default_rng(seed)
    return {s.name: random.standard_normal(s.shape, dtype=np.float32) for s in engine.inputs}


def test_many_callers_get_what_each_would_get_alone(made, cloud_bundle):
    engine, sizes = made(most=BATCH, wait_ms=200)
    assert engine.size == BATCH
    alone = open_engine(open_bundle(cloud_bundle), "step", threads=1)
    feeds = [inputs_of(engine, seed) for seed in range(11)]
    together = threading.Barrier(len(feeds))

    def call(feed):
        together.wait()
        return engine.run(feed)

    with ThreadPoolExecutor(len(feeds)) as pool:
        answers = list(pool.map(call, feeds))
    for feed, answer in zip(feeds, answers, strict=True):
        for name, array in alone.run(feed).items():
            np.testing.assert_allclose(answer[name], array, rtol=1e-5, atol=1e-5)
    assert sum(sizes) == len(feeds)
    assert len(sizes) < len(feeds)


def test_a_lone_caller_does_not_wait_for_a_batch_of_one(made):
    engine, sizes = made(most=1, wait_ms=10_000)
    assert engine.size == 1
    engine.run(inputs_of(engine, 0))
    assert sizes == [1]


def test_a_lone_robot_never_waits_for_others(made):
    engine, sizes = made(most=BATCH, wait_ms=150)
    began = time.monotonic()
    engine.run(inputs_of(engine, 0))
    assert time.monotonic() - began < 0.15
    assert sizes == [1]


def test_nobody_computes_what_nobody_waits_for(made):
    engine, sizes = made(most=BATCH)
    mark = DEADLINE.set(time.monotonic() - 1)
    try:
        with pytest.raises(ExpiredError):
            engine.run(inputs_of(engine, 0))
    finally:
        DEADLINE.reset(mark)
    assert sizes == []
    engine.run(inputs_of(engine, 0))
    assert sizes == [1]


def test_more_than_may_wait_are_refused_at_once(made):
    engine, _ = made(most=1, waiting=1)
    gate, inside = threading.Event(), threading.Event()

    def slow(*_):
        inside.set()
        gate.wait(10)

    engine._observe = slow
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(engine.run, inputs_of(engine, 0))
        inside.wait(10)
        second = pool.submit(engine.run, inputs_of(engine, 1))
        while engine._calls.empty():
            time.sleep(0.001)
        with pytest.raises(OverloadedError, match="wait already"):
            engine.run(inputs_of(engine, 2))
        gate.set()
        assert first.result()
        assert second.result()


def test_an_error_reaches_its_callers_and_the_next_call_works(made):
    engine, _ = made(most=1)
    bad = inputs_of(engine, 0) | {"filled": np.zeros(7, np.float32)}
    with pytest.raises(Exception, match="filled"):
        engine.run(bad)
    assert engine.run(inputs_of(engine, 0))


def test_an_engine_that_lends_its_buffers_never_shows_one_robot_anothers_memory(
    cloud_bundle, monkeypatch
):
    """OpenVINO's step graph writes keys and values to the same memory at each run."""
    from jepa_edge.runtimes.serve import batching

    real = open_engine(open_bundle(cloud_bundle), "step", threads=1)
    buffers = {spec.name: np.zeros(spec.shape, np.float32) for spec in real.outputs}

    class Lender:
        inputs, outputs, precision_used = real.inputs, real.outputs, "f32"

        def run(self, inputs):
            for name, array in real.run(inputs).items():
                buffers[name][:] = array
            return buffers

    monkeypatch.setattr(batching, "open_engine", lambda *_, **__: Lender())
    engine = BatchingEngine(open_bundle(cloud_bundle), "step", None, BatchConfig(most=1))
    first = engine.run(inputs_of(engine, 0))
    engine.run(inputs_of(engine, 1))
    expected = real.run(inputs_of(engine, 0))
    for name, array in first.items():
        np.testing.assert_array_equal(array, expected[name])
    engine.close()


@pytest.fixture(scope="module")
def real_bundle(tmp_path_factory):
    """A real (small, untrained) model exported for up to three robots; both engines."""
    import torch

    from jepa_edge.export.pipeline import ExportConfig, export
    from jepa_edge.model.checkpoint import save_checkpoint
    from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
    from jepa_edge.model.jepa import JEPA

    torch.manual_seed(0)
    config = ModelConfig(
        name="micro",
        encoder=EncoderConfig(dim=32, depth=1, heads=2),
        predictor=PredictorConfig(dim=16, depth=1, heads=1),
        action=ActionConfig(dim=16, depth=1, heads=1, candidates=4),
        senses=SENSES_OF_MICRO,
        window=4,
        pooled_dim=16,
    )
    folder = tmp_path_factory.mktemp("batched")
    save_checkpoint(JEPA(config), folder / "micro.safetensors")

    def made(target, precisions=("fp32",)):
        out = folder / f"{target}-{precisions[0]}.jepa"
        if not out.exists():
            asked = ExportConfig(
                model=str(folder / "micro.safetensors"),
                target=target,
                precisions=precisions,
                batch=3,
                out=out,
                clips=CLIP,
                calibration=CLIP,
                keep_failing=True,
            )
            export(asked, lambda *_: None)
        return open_bundle(out)

    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("generic-onnx", "fp32"),
        pytest.param("x86-cpu", "fp32", marks=pytest.mark.slow),
        pytest.param("x86-cpu", "int8", marks=pytest.mark.slow),
    ],
)
def test_robots_that_share_an_exported_graph_keep_their_own_memory(real_bundle, target, precision):
    """Streams at different steps, together and alone: keys, values and angles are each its own."""
    bundle = real_bundle(target, (precision,))
    batched = bundle.manifest.precision(precision).batched
    assert set(batched) == {"step@3", "predictor@3"}
    assert {check.status for graph in batched.values() for check in graph.checks} == {"passed"}
    config = BatchConfig(most=3, wait_ms=200, threads=1)
    sizes = []
    engines = {
        name: BatchingEngine(
            bundle, name, precision, config, lambda _, size, __: sizes.append(size)
        )
        for name in ("step", "predictor")
    }
    shared = [Stream(bundle, precision, engines=engines) for _ in range(ROBOTS)]
    meet = threading.Barrier(ROBOTS)
    with ThreadPoolExecutor(ROBOTS) as pool:
        answers = list(pool.map(lambda n: lived(shared[n], n, meet), range(ROBOTS)))
    assert max(sizes) > 1
    for engine in engines.values():
        engine.close()
    close = 5e-2 if precision == "int8" else 1e-4
    for number, ours in enumerate(answers):
        alone = lived(Stream(bundle, precision, threads=1), number)
        assert [latent is None for latent in ours] == [latent is None for latent in alone]
        for latent, right in zip(ours, alone, strict=True):
            if latent is not None:
                assert np.linalg.norm(latent - right) <= close * np.linalg.norm(right)


def lived(stream, number, meet=None):
    """Latents and predictions of robot `number`, which has seen `number` steps more than robot 0.

    At each later step it waits for the others at `meet`.
    """
    seen, found = steps_for(SENSES_OF_MICRO, number, 8 + number), []
    for step in seen[:number]:
        stream.encode(step)
    for step in seen[number:]:
        if meet:
            meet.wait()
        found += [stream.encode(step)[1], stream.predict()]
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_precision_added_later_computes_several_robots_too(real_bundle, tmp_path):
    from jepa_edge.quantize.pipeline import QuantizeConfig, quantize

    source = real_bundle("generic-onnx", ("fp32",)).folder
    config = QuantizeConfig(
        bundle=source, precision="int8w", clips=CLIP, out=tmp_path / "b.jepa", keep_failing=True
    )
    quantize(config, lambda *_: None)
    added = open_bundle(tmp_path / "b.jepa")
    for precision in ("fp32", "int8w"):
        assert set(added.manifest.precision(precision).batched) == {"step@3", "predictor@3"}
    engine = open_engine(added, "step@3", "int8w", threads=1, rows=2)
    assert engine.inputs[0].shape[0] == 2


def test_batches_are_for_servers(tmp_path):
    from jepa_edge.devices.targets import target
    from jepa_edge.export.batched import check_batch

    with pytest.raises(WrongUseError, match="servers"):
        check_batch(8, target("jetson-orin-nano"))
    with pytest.raises(WrongUseError, match="2 or more"):
        check_batch(1, target("x86-cpu"))
