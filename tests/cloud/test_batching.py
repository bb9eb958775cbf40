"""Batches of a real graph: the same numbers, fewer computations, and nothing for nobody."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.serve.batching import (
    DEADLINE,
    BatchConfig,
    BatchingEngine,
    ExpiredError,
    OverloadedError,
)

BATCH = 4


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
