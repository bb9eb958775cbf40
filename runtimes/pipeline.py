"""A run on a robot, one step a line."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import MANIFEST, Bundle, file_sha256, opened
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, Senses, WrongUseError
from jepa_edge.front import stderr
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.runtimes.board import Board, BoardState
from jepa_edge.runtimes.degrade import DegradingStream, Ladder, rungs_of
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.flight import FlightLog, Header
from jepa_edge.runtimes.gate import GatedStream
from jepa_edge.runtimes.loop import Loop, Streaming, Tick
from jepa_edge.runtimes.paths import LOCAL, Far, open_mind
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.pulse import HANGS_S, Pulse, Watched
from jepa_edge.runtimes.recorders import flight_log, recording, watched
from jepa_edge.runtimes.safety import Watchdog, WatchLimits
from jepa_edge.runtimes.service import Service
from jepa_edge.runtimes.simulated import Simulated
from jepa_edge.runtimes.sinks import Sink, SinkConfig, autopilot_of, open_sink
from jepa_edge.runtimes.sources import NO_MIC, Source, StepData, is_live, open_source
from jepa_edge.runtimes.stream import Stream
from jepa_edge.runtimes.telemetry import Deadlines, Histogram, Metrics, StageTime
from jepa_edge.runtimes.timely import Timely, is_late
from jepa_edge.runtimes.viewer import open_viewer

MODES = ("auto", "clip")
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
    stall_ms: float = 150.0
    """See `LiveSource`."""
    degrade: bool = False
    """Run a cheaper precision of the bundle while the board is late or too hot."""
    change_gate: float = 0.0
    """The `threshold` of a `GatedStream`; 0: there is no gate."""
    far: Far = Far()
    mode: str = "auto"
    """"clip": the last window anew at each step, for causal models too; else each step once."""
    log: Path | None = None
    """Where to write the flight log, for `jepa-edge replay`."""
    metrics: str | None = None
    """HOST:PORT, or a port of the loopback, for Prometheus."""
    view: str | None = None
    """Where people look on; see `View`."""
    viewer: Path | None = None
    """What `jepa-edge viewer` wrote: the view then shows latents as pictures."""
    armed: bool = False
    vehicle: Path | None = None

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for what no run can do."""
        if self.mode not in MODES:
            raise WrongUseError(f"--mode {self.mode}: it is one of {', '.join(MODES)}")
        if self.viewer and self.view is None:
            raise WrongUseError("--viewer shows pictures in the view: give --view, too")
        if self.viewer and self.far.engine != LOCAL:
            raise WrongUseError("--viewer is for --engine local: a server may have other latents")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to; times, see `StageTime`, are None when no step was encoded."""

    steps: int
    dropped: int
    holds: int
    latency_ms_p50: float | None
    latency_ms_p99: float | None
    age_ms_p50: float | None
    age_ms_p99: float | None
    stages: dict[str, StageTime] = {}
    precision: str = ""
    """What the last step ran in, with ``--degrade``."""
    left_out: int = 0
    """Steps that a lowered rate did not encode, with ``--degrade``."""
    skipped: int = 0
    """Steps that the change gate kept from being encoded."""
    board: BoardState = BoardState()
    """How hot the board was at the end, and what it drew."""
    log_lost: int = 0
    """Steps that are not in the flight log, though one was asked for."""
    log_trouble: str = ""


def run(config: RunConfig) -> Summary:
    """Runs until the source ends, `steps` are done, nobody listens, or it is told to stop.

    Ctrl-C and SIGTERM end a run like the end of a file: the controller gets a last hold, the log
    is whole, and the account is given.

    Raises `InputError` or `CheckFailedError` before the first step for a broken file or bundle.
    """
    _stop_on_sigterm()
    with opened(config.bundle) as bundle, ExitStack() as stack:
        viewer = open_viewer(config.viewer, bundle.manifest)
        world = _world(config, bundle.manifest.senses, stack)
        sink = stack.enter_context(open_sink(sink_config(bundle, config), world))
        senses = bundle.manifest.senses
        account = Account(1e3 * senses.step_s, config.age_limit_ms)
        metrics = stack.enter_context(closing(Metrics(config.metrics))) if config.metrics else None
        loop = _loop(bundle, config, stack)
        log = stack.enter_context(flight_log(config.log, _header(config, bundle), senses))
        look = stack.enter_context(watched(config.view, senses, viewer, loop))
        loop.recorder = recording(log.add if log else None, look)
        source = world or open_source(
            config.camera,
            config.mic,
            senses,
            fast=config.fast,
            repeat=config.repeat,
            stall_s=config.stall_ms / 1e3,
        )
        service = Service()
        ticks = _in_time(loop, source, config, senses)
        with closing(ticks), closing(source):
            try:
                service.ready()
                for tick in islice(ticks, config.steps or None):
                    if not is_late(tick):
                        service.beat(
                            tick, autopilot_of(sink)
                        )  # a loop that hangs must not look alive
                    listened, sink_ms = _hand_over(sink, tick)
                    account.add(tick, sink_ms)
                    if metrics:
                        metrics.add(tick, sink_ms)
                    if not listened:
                        break
            except KeyboardInterrupt:
                _hand_over(sink, _stopped())
    return account.summary(log, loop)


def _loop(bundle: Bundle, config: RunConfig, stack: ExitStack) -> Loop:
    far_s = 0.0 if config.far.engine == LOCAL else config.far.deadline_ms / 1e3
    pulse = Pulse(HANGS_S + far_s)
    mind = stack.enter_context(
        open_mind(
            bundle,
            config.far,
            lambda: _opened_stream(bundle, config.precision, config),
            lambda stream: goal_latent(bundle, stream, config.goal) if config.goal else None,
            lambda goal: pilot(bundle, config, goal, pulse),
        )
    )
    if bundle.manifest.senses.audio and config.mic == NO_MIC:
        stderr.print("this model hears, but has no microphone: it is fed digital silence")
    board = Board()
    stream = _degrading(mind.stream, bundle, config, board, plans=mind.pilot is not None)
    loop = Loop(
        _gated(stream, config),
        age_limit_ms=config.age_limit_ms,
        goal=mind.goal,
        pilot=mind.pilot,
        watchdog=Watchdog(watch_limits(config)),
    )
    loop.pulse, loop.board = pulse, board
    loop.rate = stream if isinstance(stream, DegradingStream) else None
    return loop


def _opened_stream(bundle: Bundle, precision: str | None, config: RunConfig) -> Stream:
    return Stream(bundle, precision, threads=config.threads, clips=config.mode == "clip")


def _degrading(
    stream: Streaming, bundle: Bundle, config: RunConfig, board: Board, *, plans: bool
) -> Streaming:
    if not config.degrade:
        return stream
    if not isinstance(stream, Stream):
        raise WrongUseError("--degrade is for --engine local: hybrid: has its own way to degrade")
    step_ms = 1e3 * bundle.manifest.senses.step_s
    slowest = 1 if stream.causal or plans else int(config.age_limit_ms // step_ms)
    rungs = rungs_of(bundle.manifest, config.precision, slowest=slowest)
    if len(rungs) == 1:
        raise WrongUseError(
            f"--degrade: this bundle has nothing cheaper than {rungs[0].precision}; "
            "jepa-edge quantize adds a precision"
        )
    return DegradingStream(
        rungs,
        stream,
        lambda precision: _opened_stream(bundle, precision, config),
        Ladder([step_ms * rung.every for rung in rungs]),
        board=board,
        window=bundle.manifest.model.window,
    )


def _gated(stream: Streaming, config: RunConfig) -> Streaming:
    if config.change_gate < 0:
        raise WrongUseError(f"--change-gate {config.change_gate}: it is 0 or more")
    if config.change_gate == 0:
        return stream
    if config.far.engine != LOCAL:
        raise WrongUseError("--change-gate is for --engine local: a server keeps its own time")
    return GatedStream(stream, config.change_gate)


def _world(config: RunConfig, senses: Senses, stack: ExitStack) -> Simulated | None:
    """The simulated robot that ``--camera gym:NAME`` looks through; None for real cameras."""
    if not config.camera.startswith("gym:"):
        return None
    if config.mic not in (config.camera, NO_MIC):
        raise WrongUseError(f"{config.camera} has a microphone of its own; leave --mic away")
    world = Simulated(config.camera, senses, fast=config.fast, repeat=config.repeat)
    stack.callback(world.close)
    return world


def _in_time(
    loop: Loop, source: Source, config: RunConfig, senses: Senses
) -> Generator[Tick] | Timely:
    """A file that is played fast has no time to keep."""
    if config.fast:
        return loop.ticks(source)
    return Timely(loop.ticks(source), senses.step_s + config.age_limit_ms / 1e3, loop.pulse)


def _hand_over(sink: Sink, tick: Tick) -> tuple[bool, float]:
    """Whether somebody listens still, and how long it took in milliseconds."""
    began_ns = time.monotonic_ns()
    listened = sink.take(tick)
    return listened, (time.monotonic_ns() - began_ns) / 1e6


def _stopped() -> Tick:
    return Tick(step=-1, captured_ns=time.monotonic_ns(), state="hold", reason="told to stop")


def _stop_on_sigterm() -> None:
    """SIGTERM as Ctrl-C: systemd, and people, end a flight so."""

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the landing
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)


def _header(config: RunConfig, bundle: Bundle) -> Header:
    return Header(
        bundle=bundle.manifest.name,
        digest=file_sha256(bundle.folder / MANIFEST),
        precision=config.precision or bundle.manifest.default_precision,
        threads=config.threads,
        clip_mode=config.mode == "clip",
        change_gate=config.change_gate,
    )


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


def pilot(
    bundle: Bundle, config: RunConfig, goal: FloatArray | None, pulse: Pulse | None = None
) -> Pilot | None:
    """Who plans the actions; None without a goal, or when the model cannot plan."""
    graphs = bundle.manifest.precision(config.precision).graphs
    if goal is None or "rollout" not in graphs:
        return None
    rollout = open_engine(bundle, "rollout", config.precision, threads=config.threads)
    share_ms = PLANNING_SHARE * 1e3 * bundle.manifest.senses.step_s
    search = PlannerConfig(
        deadline_ms=None if config.fast else share_ms
    )  # fast: the same each time
    return Pilot(Planner(Watched(rollout, pulse or Pulse()), search, bundle.manifest.model), goal)


def watch_limits(config: RunConfig) -> WatchLimits:
    """When a sense counts as dead: files may show a still picture, live devices may not."""
    frozen_s, silent_s = config.frozen_after_s, config.silent_after_s
    if frozen_s is None:
        frozen_s = FROZEN_S if is_live(config.camera) else 0.0
    if silent_s is None:
        silent_s = SILENT_S if is_live(config.mic) else 0.0
    return WatchLimits(frozen_after_s=frozen_s, silent_after_s=silent_s)


def sink_config(bundle: Bundle, config: RunConfig) -> SinkConfig:
    """Who gets the ticks, and what it must know of the model."""
    plans = (
        config.goal is not None and "rollout" in bundle.manifest.precision(config.precision).graphs
    )
    return SinkConfig(
        uri=config.controller,
        armed=config.armed,
        vehicle=config.vehicle,
        step_ms=1e3 * bundle.manifest.senses.step_s,
        age_limit_ms=config.age_limit_ms,
        action_dim=bundle.manifest.model.action_dim if plans else 0,
    )


class Account:
    """Counts what happened."""

    def __init__(self, step_ms: float, age_limit_ms: float) -> None:
        self.steps = self.dropped = self.holds = 0
        self.deadlines = Deadlines(step_ms, age_limit_ms)
        self.latency, self.age = Histogram(step_ms), Histogram(age_limit_ms)

    def add(self, tick: Tick, sink_ms: float) -> None:
        """Counts one tick."""
        self.deadlines.add(tick, sink_ms)
        self.steps += 1
        self.dropped += tick.dropped
        self.holds += tick.state == "hold"
        if tick.latent is not None:
            self.latency.add(tick.latency_ms)
            self.age.add(tick.age_ms)

    def summary(self, log: FlightLog | None, loop: Loop) -> Summary:
        """What it came to so far."""
        gate = loop.stream if isinstance(loop.stream, GatedStream) else None
        stream = gate.stream if gate else loop.stream
        return Summary(
            steps=self.steps,
            dropped=self.dropped,
            holds=self.holds,
            latency_ms_p50=_percentile(self.latency, 50),
            latency_ms_p99=_percentile(self.latency, 99),
            age_ms_p50=_percentile(self.age, 50),
            age_ms_p99=_percentile(self.age, 99),
            stages=self.deadlines.summary(),
            precision=stream.precision if isinstance(stream, DegradingStream) else "",
            left_out=stream.left_out if isinstance(stream, DegradingStream) else 0,
            skipped=gate.skipped if gate else 0,
            board=loop.board.state(),
            log_lost=log.lost if log else 0,
            log_trouble=log.trouble if log else "",
        )


def _percentile(times: Histogram, percent: float) -> float | None:
    return round(times.percentile(percent), 3) if times.count else None


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
