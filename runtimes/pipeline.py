"""A run on a robot, one step a line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle, opened
from jepa_edge.contract import FloatArray, InputError
from jepa_edge.runtimes.loop import Loop, Tick
from jepa_edge.runtimes.sinks import open_sink
from jepa_edge.runtimes.sources import open_source
from jepa_edge.runtimes.stream import Stream


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, on what, and for how long (`steps` 0: to the end)."""

    bundle: Path
    camera: str
    mic: str
    controller: str = "stdout"
    precision: str | None = None
    goal: str | None = None
    fast: bool = False
    steps: int = 0
    threads: int = 0
    age_limit_ms: float = 1000.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to."""

    steps: int
    dropped: int
    holds: int
    latency_ms_p50: float
    latency_ms_p99: float
    age_ms_p99: float


def run(config: RunConfig) -> Summary:
    """Runs until the source ends, `steps` are done, or Ctrl-C; returns the account.

    Raises `InputError` or `CheckFailedError` before the first step for a broken file or bundle.
    """
    ticks: list[Tick] = []
    with opened(config.bundle) as bundle, open_sink(config.controller) as sink:
        source = open_source(config.camera, config.mic, bundle.manifest.senses, fast=config.fast)
        stream = Stream(bundle, config.precision, threads=config.threads)
        goal = goal_latent(bundle, config) if config.goal else None
        loop = Loop(stream, age_limit_ms=config.age_limit_ms, goal=goal)
        try:
            for tick in islice(loop.ticks(source), config.steps or None):
                sink.take(tick)
                ticks.append(msgspec.structs.replace(tick, latent=None, prediction=None))
        except KeyboardInterrupt:
            pass  # the account below is what a person who stops a run wants
    return _summary(ticks)


def goal_latent(bundle: Bundle, config: RunConfig) -> FloatArray:
    """The pooled latent `[P]` at the end of the goal clip: the future that is wanted."""
    assert config.goal
    source = open_source(config.goal, "none", bundle.manifest.senses, fast=True)
    stream = Stream(bundle, config.precision, threads=config.threads)
    pooled = None
    for step in source.steps():
        encoded = stream.encode(step)
        pooled = encoded[1] if encoded else pooled
    if pooled is None:
        raise InputError(f"goal {config.goal} is shorter than {bundle.manifest.model.window} steps")
    return pooled


def _summary(ticks: list[Tick]) -> Summary:
    ok = [tick for tick in ticks if tick.state != "hold" and tick.latency_ms]
    latency = [tick.latency_ms for tick in ok] or [0.0]
    ages = [tick.age_ms for tick in ok] or [0.0]
    return Summary(
        steps=len(ticks),
        dropped=sum(tick.dropped for tick in ticks),
        holds=sum(tick.state == "hold" for tick in ticks),
        latency_ms_p50=round(float(np.percentile(latency, 50)), 3),
        latency_ms_p99=round(float(np.percentile(latency, 99)), 3),
        age_ms_p99=round(float(np.percentile(ages, 99)), 3),
    )
