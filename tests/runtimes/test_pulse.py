"""A loop that hangs inside a step is a hold at once; who is told to stop says so first."""

import signal
import threading
import time

import pytest

from jepa_edge.runtimes.loop import Loop, Tick
from jepa_edge.runtimes.pulse import LEARNT, Pulse, Watched
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.timely import Timely, is_late


def learnt(pulse, stage_s=0.0):
    for _ in range(LEARNT):
        pulse.mark()
        time.sleep(stage_s)
        pulse.rest()
    return pulse


def test_nothing_hangs_before_it_is_known_how_long_a_step_takes():
    pulse = Pulse(0.001)
    pulse.mark()
    time.sleep(0.005)
    assert pulse.hung_s() is None
    pulse.rest()
    learnt(pulse).mark()
    time.sleep(0.03)
    assert pulse.hung_s() >= 0.03
    pulse.mark()
    assert pulse.hung_s() is None
    pulse.rest()
    assert pulse.hung_s() is None


def test_a_slow_engine_is_given_its_own_time():
    pulse = learnt(Pulse(0.001), 0.02)
    assert pulse.limit_s >= 1.5 * 0.02


def test_each_call_of_a_watched_engine_is_a_stage():
    class Engine:
        inputs, outputs, precision_used = [], [], "f32"

        def run(self, inputs):
            return inputs

    pulse = learnt(Pulse(0.02))
    engine = Watched(Engine(), pulse)
    pulse.mark()
    for _ in range(5):
        time.sleep(0.01)
        assert engine.run({}) == {}
        assert pulse.hung_s() is None
    pulse.rest()


class Hanging:
    """A stream whose engine does not come back, from its tenth step on, until it is let go."""

    path, is_warm = "edge", True

    def __init__(self):
        self.steps, self.go, self.hung_at = 0, threading.Event(), 0.0

    def encode(self, step):
        self.steps += 1
        if self.steps == 10:
            self.hung_at = time.monotonic()
            assert self.go.wait(10)

    def predict(self):
        return None

    def reset(self):
        pass


class Steps:
    def steps(self):
        for index in range(12):
            yield StepData(index=index, captured_ns=time.monotonic_ns(), video=None, audio=None)


def test_an_engine_that_hangs_is_a_hold_long_before_the_next_step_is_due():
    stream, pulse = Hanging(), Pulse(0.1)
    loop = Loop(stream, age_limit_ms=60_000.0)
    loop.pulse = pulse
    ticks = Timely(loop.ticks(Steps()), 20.0, pulse)
    late = next(tick for tick in ticks if is_late(tick))
    held_s = time.monotonic() - stream.hung_at
    assert late.state == "hold"
    assert late.step == 8
    assert "has not answered" in late.reason
    assert 0.1 <= held_s < 10  # not 20; a busy machine adds to the 0.1
    stream.go.set()
    assert [tick.step for tick in ticks] == [9, 10, 11]  # told once, and whole again
    ticks.close()


def test_whoever_is_interrupted_need_not_wait_for_the_loop():
    gate = threading.Event()

    def ticks():
        yield Tick(step=0, captured_ns=0, state="ok")
        gate.wait(10)

    found = Timely(ticks(), 20.0)
    assert next(found).step == 0
    timer = threading.Timer(0.05, signal.raise_signal, (signal.SIGINT,))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        next(found)
    assert time.monotonic() - began < 8.0  # not the ten of the thread, which `close` waits for
    signal.signal(signal.SIGINT, before)
    gate.set()
    found.close()
    timer.join()
