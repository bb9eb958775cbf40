"""A run on a robot, one step a line."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle, opened
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError
from jepa_edge.front import stderr
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.loop import Loop, Streaming, Tick
from jepa_edge.runtimes.paths import Far, open_mind
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.safety import Watchdog, WatchLimits
from jepa_edge.runtimes.service import Service
from jepa_edge.runtimes.sinks import open_sink
from jepa_edge.runtimes.sources import NO_MIC, StepData, is_live, open_source
from jepa_edge.runtimes.stream import Stream

REMEMBERED = 100_000
"""Steps whose times the summary covers: a run may last for weeks, its memory may not grow."""

PLANNING_SHARE = 0.5
"""How much of a step a plan may take."""
FROZEN_S, SILENT_S = 0.4, 1.0
"""How long a live camera may show one picture to the last bit, a microphone digital silence."""


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, on what, and for how long (`steps` 0: to the end)."""

    bundle: Path
    camera: str
    mic: str
    controller: str = "stdout"
    precision: str | None = None
    goal: str | None = None
    fast: bool = False
    repeat: bool = False
    steps: int = 0
    threads: int = 0
    age_limit_ms: float = 1000.0
    frozen_after_s: float | None = None
    """None: `FROZEN_S` for live devices, never for files. So too `silent_after_s`."""
    silent_after_s: float | None = None
    far: Far = Far()


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to; times are None when no step was encoded."""

    steps: int
    dropped: int
    holds: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    age_ms_p50: float | None
    age_ms_p99: float | None


def run(config: RunConfig) -> Summary:
    """Runs until the source ends, `steps` are done, nobody listens, or Ctrl-C; the account of it.

    Raises `InputError` or `CheckFailedError` before the first step for a broken file or bundle.
    """
    account = Account()
    with (
        opened(config.bundle) as bundle,
        open_sink(config.controller) as sink,
        ExitStack() as stack,
    ):
        mind = stack.enter_context(
            open_mind(
                bundle,
                config.far,
                lambda: Stream(bundle, config.precision, threads=config.threads),
                lambda stream: goal_latent(bundle, stream, config.goal) if config.goal else None,
                lambda goal: pilot(bundle, config, goal),
            )
        )
        loop = Loop(
            mind.stream,
            age_limit_ms=config.age_limit_ms,
            goal=mind.goal,
            pilot=mind.pilot,
            watchdog=Watchdog(watch_limits(config)),
        )
        senses = bundle.manifest.senses
        if senses.audio and config.mic == NO_MIC:
            stderr.print("this model hears, but has no microphone: it is fed digital silence")
        source = open_source(
            config.camera, config.mic, senses, fast=config.fast, repeat=config.repeat
        )
        service = Service()
        with closing(source):
            try:
                service.ready()
                for tick in islice(loop.ticks(source), config.steps or None):
                    account.add(tick)
                    service.beat(tick)
                    if not sink.take(tick):
                        break
            except KeyboardInterrupt:
                pass  # the account below is what a person who stops a run wants
    return account.summary()


def goal_latent(bundle: Bundle, stream: Streaming, uri: str) -> FloatArray:
    """The pooled latent `[P]` at the end of the goal clip at `uri`: the future that is wanted."""
    senses, window = bundle.manifest.senses, bundle.manifest.model.window
    clip = clips_from(uri, senses, steps=window)[-1]
    encoded = None
    for index in range(window):
        encoded = stream.encode(_step_of(clip, index, senses.mel_frames_per_step))
    stream.reset()
    if encoded is None or not np.isfinite(encoded[1]).all():
        raise InputError(f"goal {uri}: its latents are not finite")
    return encoded[1]


def pilot(bundle: Bundle, config: RunConfig, goal: FloatArray | None) -> Pilot | None:
    """Who plans the actions; None without a goal, or when the model cannot plan."""
    graphs = bundle.manifest.precision(config.precision).graphs
    if goal is None or "rollout" not in graphs:
        return None
    rollout = open_engine(bundle, "rollout", config.precision, threads=config.threads)
    step_ms = 1e3 * bundle.manifest.senses.step_s
    return Pilot(Planner(rollout, PlannerConfig(deadline_ms=PLANNING_SHARE * step_ms)), goal)


def watch_limits(config: RunConfig) -> WatchLimits:
    """When a sense counts as dead: files may show a still picture, live devices may not."""
    frozen_s, silent_s = config.frozen_after_s, config.silent_after_s
    if frozen_s is None:
        frozen_s = FROZEN_S if is_live(config.camera) else 0.0
    if silent_s is None:
        silent_s = SILENT_S if is_live(config.mic) else 0.0
    return WatchLimits(frozen_after_s=frozen_s, silent_after_s=silent_s)


class Account:
    """Counts what happened."""

    def __init__(self) -> None:
        self.steps = self.dropped = self.holds = 0
        self.latency_ms: deque[float] = deque(maxlen=REMEMBERED)
        self.age_ms: deque[float] = deque(maxlen=REMEMBERED)

    def add(self, tick: Tick) -> None:
        """Counts one tick."""
        self.steps += 1
        self.dropped += tick.dropped
        self.holds += tick.state == "hold"
        if tick.latent is not None:
            self.latency_ms.append(tick.latency_ms)
            self.age_ms.append(tick.age_ms)

    def summary(self) -> Summary:
        """What it came to so far."""
        return Summary(
            steps=self.steps,
            dropped=self.dropped,
            holds=self.holds,
            latency_ms_p50=_percentile(self.latency_ms, 50),
            latency_ms_p99=_percentile(self.latency_ms, 99),
            age_ms_p50=_percentile(self.age_ms, 50),
            age_ms_p99=_percentile(self.age_ms, 99),
        )


def _percentile(values: deque[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 3) if values else None


def _step_of(clip: Clip, index: int, mel_frames: int) -> StepData:
    video, audio = clip.video, clip.audio
    frames = slice(index * FRAMES_PER_STEP, (index + 1) * FRAMES_PER_STEP)
    heard = slice(index * mel_frames, (index + 1) * mel_frames)
    return StepData(
        index=index,
        captured_ns=0,
        video=None if video is None else np.ascontiguousarray(video[None, :, frames]),
        audio=None if audio is None else np.ascontiguousarray(audio[None, ..., heard]),
    )
