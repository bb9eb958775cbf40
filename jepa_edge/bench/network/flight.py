"""Success by path and network: the simulated robots flown in virtual time over simulated links.

The model, the planner, the JPEG files and the breaker are the real ones; the clock and the link are
simulated, so a flight depends on its seed alone and a slow machine changes nothing. Computing takes
as long as it was measured to take. In each step the robot goes on with its last command until the
new one is handed over, as a controller does; without one that is young enough it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bench.decisions import wilson
from jepa_edge.bench.network.facts import SuccessFacts
from jepa_edge.bench.network.link import Pipe, SimulatedWay
from jepa_edge.bench.network.profiles import profile
from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, InputError, Senses
from jepa_edge.media.features import video_from_frames
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.hybrid import Breaker, BreakerConfig
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.wire import frames_from_jpeg, tensors_from_steps
from jepa_edge.runtimes.sources import StepData, heard_in, seen
from jepa_edge.runtimes.stream import Stream
from jepa_edge.worlds.record import open_world

STEP_S = 0.2
AT_REST = 8
"""Steps at the goal that its latent is taken from."""
SCRIPT, SCRIPT_BYTES = "script", 8000
"""In place of a precision: the world's script decides, from as many bytes as a step as JPEG has."""
FRAMING = 420
"""Bytes of HTTP/2, gRPC and the protocol's names around a request, measured."""
ANSWER = 900
"""Bytes of an answer: a latent, a plan, its names."""

Observation = dict[str, Any]


class FlightConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to fly. ``edge_ms`` and ``cloud_ms`` are what one decision takes on each side."""

    world: str
    precision: str
    episodes: int = 8
    steps: int = 40
    seed: int = 100_000
    edge_ms: float = 25.0
    cloud_ms: float = 25.0
    deadline_ms: float = 150.0
    budget_ms: float = 400.0
    threads: int = 0
    planner: PlannerConfig = PlannerConfig()


class Flown(msgspec.Struct, frozen=True, kw_only=True):
    """One episode; ages are at hand-over."""

    path: str
    network: str
    precision: str
    seed: int
    success: bool
    collisions: int
    held: float
    ages_ms: list[float]
    cloud: int


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is handed over `after_s` the observation, and who thought; None: a hold."""

    after_s: float
    action: FloatArray | None
    path: str


class Timing:
    """Over one path and one network: when the decision for a step is there, and from whom."""

    def __init__(self, path: str, network: str, config: FlightConfig, seed: int) -> None:
        spec = profile(network)
        round_trip_s = (spec.up.delay_ms + spec.down.delay_ms) / 1e3
        self.path, self.config = path, config
        self._up = Pipe(SimulatedWay(spec.up, 2 * seed), round_trip_s)
        self._down = Pipe(SimulatedWay(spec.down, 2 * seed + 1), round_trip_s)
        self._now = self._start = float(np.random.default_rng((seed, 11)).uniform(0, 60))
        self._breaker = Breaker(BreakerConfig(), lambda: self._now)
        self._unconfirmed = 0
        self._probe_s: float | None = None

    def decide(self, now_s: float, step_bytes: int, window: int) -> tuple[float, str]:
        """(seconds until the hand-over, who thought: ``edge``, ``cloud`` or ``hold``)."""
        config, self._now = self.config, self._start + now_s
        own_s, deadline_s = config.edge_ms / 1e3, config.deadline_ms / 1e3
        if self.path == "edge":
            return own_s, "edge"
        self._look_at_probe(deadline_s)
        waits = self._breaker.path == "cloud" or self.path == "cloud"
        self._unconfirmed = min(self._unconfirmed + 1, window)
        sent = self._up.arrival(self._now, self._unconfirmed * step_bytes + FRAMING)
        took_s = self._down.arrival(sent + config.cloud_ms / 1e3, ANSWER) - self._now
        in_time = took_s <= deadline_s
        if in_time:
            self._unconfirmed = 0
        if self.path == "cloud":
            return (took_s, "cloud") if in_time else (deadline_s, "hold")
        if not waits:
            self._probe_s = took_s
            return own_s, "edge"
        self._breaker.record(in_time=in_time)
        return (took_s, "cloud") if in_time else (max(deadline_s, own_s), "edge")

    def _look_at_probe(self, deadline_s: float) -> None:
        if self._probe_s is not None:
            self._breaker.record(in_time=self._probe_s <= deadline_s)
            self._probe_s = None


class Thinker:
    """Encodes and plans, from frames as they are or as their JPEG files show them."""

    def __init__(self, bundle: Bundle, config: FlightConfig, *, jpeg: bool) -> None:
        self.senses: Senses = bundle.manifest.senses
        self.window = bundle.manifest.model.window
        self._stream = Stream(bundle, config.precision, threads=config.threads)
        rollout = open_engine(bundle, "rollout", config.precision, threads=config.threads)
        grounded = bundle.manifest.model.grounded
        self._planner, self._jpeg = Planner(rollout, config.planner, grounded), jpeg
        self.bytes = 0

    def begin(self, goal: list[Observation]) -> None:
        """Takes the end of `goal` as what is wanted."""
        self._restart()
        for shown in goal:
            latent = self._see(shown)
        self._pilot = Pilot(self._planner, latent)
        self._restart()
        self._pilot.forget()

    def act(self, observed: Observation) -> FloatArray | None:
        """The action `[A]` after `observed`; None until a whole window is seen."""
        plan = self._pilot.act(self._see(observed), ready=self._stream.is_warm)
        return None if plan is None else plan.actions[0]

    def _restart(self) -> None:
        self._stream.reset()
        self._before: FloatArray | None = None

    def _see(self, observed: Observation) -> FloatArray:
        senses = self.senses
        step = StepData(
            index=0,
            captured_ns=0,
            video=seen(observed["frames"], senses),
            audio=heard_in(observed["samples"], self._before, senses),
        )
        self._before = observed["samples"]
        if self._jpeg:
            step = self._through_jpeg(step)
        encoded = self._stream.encode(step)
        if encoded is None:
            raise InputError("only causal models fly here: the bundle has no step graph")
        return encoded[1]

    def _through_jpeg(self, step: StepData) -> StepData:
        """What the server sees of it, and how many bytes that took."""
        tensors = tensors_from_steps([step], self.senses, "jpeg")
        files = tensors.get("jpeg", np.zeros(0, object))
        audio = tensors.get("audio_half")
        self.bytes = sum(map(len, files.ravel())) + (0 if audio is None else audio.nbytes)
        if self.senses.video is None:
            return step
        frames = frames_from_jpeg(files, self.senses.video)
        video = video_from_frames(frames, self.senses.video)[None]
        heard = None if audio is None else audio.astype(np.float32)
        return msgspec.structs.replace(step, video=video, audio=heard)


class Scripted:
    """The world's own script, which knows where everything is: how much the link alone costs."""

    def __init__(self, world: Any, size: int, window: int) -> None:  # noqa: ANN401
        self._world, self.bytes, self.window = world, size, window

    def begin(self, goal: list[Observation]) -> None:
        """Nothing to prepare."""

    def act(self, observed: Observation) -> FloatArray | None:  # noqa: ARG002
        """What the script says at the time of the observation."""
        action: FloatArray = self._world.expert()
        return action


class Flights:
    """Flies paths over networks through the same scenes; finished ones are in the log."""

    def __init__(self, bundle: Bundle, config: FlightConfig, log: Path | None) -> None:
        senses = bundle.manifest.senses
        self.config = config
        self._world = open_world(config.world, size=senses.video.height if senses.video else 96)
        self._own: Thinker | Scripted
        self._far: Thinker | Scripted
        if config.precision == SCRIPT:
            window = bundle.manifest.model.window
            self._own, self._far = (Scripted(self._world, SCRIPT_BYTES, window) for _ in range(2))
        else:
            self._own = Thinker(bundle, config, jpeg=False)
            self._far = Thinker(bundle, config, jpeg=True)
        self._log = log
        self.flown: list[Flown] = []
        if log is not None and log.exists():
            lines = log.read_bytes().splitlines()
            self.flown = [msgspec.json.decode(line, type=Flown) for line in lines]

    def fly(
        self,
        paths: tuple[str, ...],
        networks: tuple[str, ...],
        progress: Callable[[str, int, int], None],
    ) -> list[SuccessFacts]:
        """Every path over every network; the edge's flights, which no network changes, once."""
        ways = [("edge", "none")] if "edge" in paths else []
        ways += [(p, n) for n in networks for p in paths if p != "edge"]
        for number in range(self.config.episodes):
            seed = self.config.seed + number
            missing = [way for way in ways if not self._has(way, seed)]
            goal = self._demonstration(seed) if missing else None
            for index, (path, network) in enumerate(missing):
                done = number * len(ways) + index
                progress(f"{path} over {network}", done, self.config.episodes * len(ways))
                if goal is not None:
                    self._add(self._one(path, network, seed, goal))
        self._world.close()
        return [self._facts(way) for way in ways]

    def _has(self, way: tuple[str, str], seed: int) -> bool:
        key = (*way, self.config.precision, seed)
        return any((f.path, f.network, f.precision, f.seed) == key for f in self.flown)

    def _add(self, flown: Flown) -> None:
        self.flown.append(flown)
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                log.write(msgspec.json.encode(flown) + b"\n")

    def _demonstration(self, seed: int) -> list[Observation] | None:
        observed, _ = self._world.reset(seed=seed)
        shown = [observed]
        for _ in range(self.config.steps):
            observed, _, finished, _, info = self._world.step(self._world.expert())
            shown.append(observed)
            if finished:
                rest = np.zeros(4, np.float32)
                shown += [self._world.step(rest)[0] for _ in range(AT_REST)]
                return shown if info["success"] else None
        return None

    def _one(self, path: str, network: str, seed: int, goal: list[Observation]) -> Flown:
        config, world = self.config, self._world
        thinkers = {"edge": [self._own], "cloud": [self._far]}.get(path, [self._own, self._far])
        for thinker in thinkers:
            thinker.begin(goal)
        timing = Timing(path, network if path != "edge" else "lan", config, seed)
        observed, info = world.reset(seed=seed)
        command, sent_at = np.zeros(4, np.float32), -1e9
        ages: list[float] = []
        held, cloud, steps = 0.0, 0, 0
        for steps in range(config.steps):
            actions = {t: t.act(observed) for t in thinkers}
            after_s, who = timing.decide(steps * STEP_S, self._far.bytes, self._own.window)
            chosen = {"edge": self._own, "cloud": self._far}.get(who)
            action = actions.get(chosen) if chosen else None
            now = steps * STEP_S
            schedule, still = scheduled(
                command, now - sent_at, action, after_s, config.budget_ms / 1e3
            )
            held += still
            if action is not None:
                ages.append(round(after_s * 1e3, 2))
                cloud += who == "cloud"
            if after_s < STEP_S:
                command = np.zeros(4, np.float32) if action is None else action
                sent_at = now
            observed, _, finished, _, info = _held(world, schedule)
            if finished:
                break
        return Flown(
            path=path,
            network=network,
            precision=config.precision,
            seed=seed,
            success=bool(info["success"]),
            collisions=int(info["collisions"]),
            held=round(held / (steps + 1), 4),
            ages_ms=ages,
            cloud=cloud,
        )

    def _facts(self, way: tuple[str, str]) -> SuccessFacts:
        path, network = way
        ours = [
            f
            for f in self.flown
            if (f.path, f.network, f.precision) == (*way, self.config.precision)
        ]
        ages = [age for f in ours for age in f.ages_ms]
        return SuccessFacts(
            path=path,
            network=network,
            precision=self.config.precision,
            episodes=len(ours),
            success=wilson(sum(f.success for f in ours), len(ours)),
            collisions_mean=round(float(np.mean([f.collisions for f in ours])), 3) if ours else 0.0,
            held=round(float(np.mean([f.held for f in ours])), 4) if ours else 0.0,
            age_ms_p50=round(float(np.percentile(ages, 50)), 1) if ages else None,
            age_ms_p99=round(float(np.percentile(ages, 99)), 1) if ages else None,
            cloud_share=round(sum(f.cloud for f in ours) / max(len(ages), 1), 4),
        )


def scheduled(
    last: FloatArray, age_s: float, action: FloatArray | None, after_s: float, budget_s: float
) -> tuple[FloatArray, float]:
    """What is commanded in each part of a step `[40, A]`, and the share of it that is a hold.

    Args:
        last: the command before.
        age_s: how old what `last` is based on is when the step begins.
        action: the new one, handed over `after_s` into the step; None stops the robot then.
        after_s: see `action`; past the end of the step nothing changes in it.
        budget_s: no command is followed when what it is based on is older.
    """
    parts = 40
    found = np.zeros((parts, len(last)), np.float32)
    still = 0
    for part in range(parts):
        at = part * STEP_S / parts
        if at < after_s:
            follows = age_s + at <= budget_s
            found[part] = last if follows else 0.0
            still += not follows
        elif action is not None:
            found[part] = action
        else:
            still += 1
    return found, still / parts


def _held(world: Any, schedule: FloatArray) -> Any:  # noqa: ANN401
    """One step of `world` with a command for each of its 40 parts."""
    drive, parts = world.drive, iter(np.clip(schedule, -1.0, 1.0))
    world.drive = lambda _: drive(next(parts))
    try:
        return world.step(schedule[-1])
    finally:
        world.drive = drive
