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
from jepa_edge.bench.network.facts import Costs, SuccessFacts, age_from
from jepa_edge.bench.network.timing import STEP_S, Command, Timing, TimingConfig, scheduled
from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, InputError, Senses
from jepa_edge.media.features import video_from_frames
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.wire import frames_from_jpeg, tensors_from_steps
from jepa_edge.runtimes.sources import StepData, heard_in, seen
from jepa_edge.runtimes.stream import Stream
from jepa_edge.worlds.record import open_world
from jepa_edge.worlds.world import Observation

SCRIPT, SCRIPT_BYTES = "script", 8000
"""In place of a precision: the world's script decides, from as many bytes as a step as JPEG has."""


class FlightConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to fly: scenes ``seed`` to ``seed + episodes``, and what takes how long."""

    world: str
    precision: str
    episodes: int = 8
    steps: int = 40
    seed: int = 100_000
    level: str = ""
    timing: TimingConfig = TimingConfig()
    measured: bool = False
    """Whether the times of `timing` were measured, and so never are the same twice."""
    threads: int = 0
    planner: PlannerConfig = PlannerConfig()
    costs: Costs = Costs()


class Flown(msgspec.Struct, frozen=True, kw_only=True):
    """One episode; ages are at hand-over."""

    path: str
    network: str
    precision: str
    seed: int
    success: bool
    collisions: int
    held: float
    steps: int
    dropped: int
    ages_ms: list[float]
    cloud: int
    bytes_up: int
    bytes_down: int


class Thinker:
    """Encodes and plans, from frames as they are or as their JPEG files show them."""

    def __init__(self, bundle: Bundle, config: FlightConfig, *, jpeg: bool) -> None:
        self.senses: Senses = bundle.manifest.senses
        self.window = bundle.manifest.model.window
        self._stream = Stream(bundle, config.precision, threads=config.threads)
        rollout = open_engine(bundle, "rollout", config.precision, threads=config.threads)
        self._planner = Planner(rollout, config.planner, bundle.manifest.model)
        self._jpeg = jpeg
        self.bytes = 0

    def begin(self, goal: list[Observation]) -> None:
        """Takes the end of `goal` as what is wanted."""
        self._restart()
        latents = [self._see(shown) for shown in goal]
        if not latents or latents[-1] is None:
            raise InputError("the goal is shown for less than the model's window")
        self._pilot = Pilot(self._planner, latents[-1])
        self.forget()

    def act(self, observed: Observation) -> FloatArray | None:
        """The action `[A]` after `observed`; None until a whole window is seen."""
        latent = self._see(observed)
        if latent is None:
            return None
        plan = self._pilot.act(latent, ready=self._stream.is_warm)
        return None if plan is None else plan.actions[0]

    def forget(self) -> None:
        """After a hole: what was seen before it is no history."""
        self._restart()
        self._pilot.forget()

    def _restart(self) -> None:
        self._stream.reset()
        self._before: FloatArray | None = None

    def _see(self, observed: Observation) -> FloatArray | None:
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
        return None if encoded is None else encoded[1]

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

    def forget(self) -> None:
        """It has nothing to forget."""

    def act(self, observed: Observation) -> FloatArray | None:  # noqa: ARG002
        """What the script says at the time of the observation."""
        action: FloatArray = self._world.expert()
        return action


Mind = Thinker | Scripted


class _Counted:
    """What came of the steps of one flight so far."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.held: list[float] = []
        self.ages_ms: list[float] = []
        self.cloud = self.dropped = 0

    def add(self, decided: tuple[Command, str]) -> None:
        """One more decision."""
        command, who = decided
        self.commands.append(command)
        if command.action is not None:
            self.ages_ms.append(round((command.at_s - command.seen_s) * 1e3, 2))
            self.cloud += who == "cloud"

    def drop(self, timing: Timing, thinkers: list[Mind]) -> None:
        """A step that nobody looked at: after a hole everything begins anew, as in the loop."""
        self.dropped += 1
        timing.forget()
        for thinker in thinkers:
            thinker.forget()


class Flights:
    """Flies paths over networks through the same scenes; finished ones are in the log."""

    def __init__(self, bundle: Bundle, config: FlightConfig, log: Path | None) -> None:
        senses = bundle.manifest.senses
        self.config = config
        size = senses.video.height if senses.video else 96
        self._world = open_world(config.world, size=size, level=config.level)
        self._own: Mind
        self._far: Mind
        if config.precision == SCRIPT:
            window = bundle.manifest.model.window
            self._own, self._far = (Scripted(self._world, SCRIPT_BYTES, window) for _ in range(2))
        else:
            self._own = Thinker(bundle, config, jpeg=False)
            self._far = Thinker(bundle, config, jpeg=True)
        self._log = log
        self.flown: list[Flown] = []
        if log is not None:
            self.flown, self.config = _flown_before(log, bundle, config)

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
            goal = self._world.demonstrate(seed, self.config.steps) if missing else None
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
            with self._log.open("ab") as log:
                log.write(msgspec.json.encode(flown) + b"\n")

    def _one(self, path: str, network: str, seed: int, goal: list[Observation]) -> Flown:
        config, world = self.config, self._world
        thinkers = {"edge": [self._own], "cloud": [self._far]}.get(path, [self._own, self._far])
        for thinker in thinkers:
            thinker.begin(goal)
        timing = Timing(path, network if path != "edge" else "lan", config.timing, seed)
        observed, info = world.reset(seed=seed)
        flown = _Counted()
        for step in range(config.steps):
            now_s = step * STEP_S
            if timing.is_busy(now_s):
                flown.drop(timing, thinkers)
            else:
                flown.add(self._decided(timing, thinkers, observed, now_s))
            budget_s = config.timing.budget_ms / 1e3
            schedule, still = scheduled(flown.commands, now_s, budget_s, len(world.rest()))
            flown.held.append(still)
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
            held=round(float(np.mean(flown.held)), 4),
            steps=len(flown.held),
            dropped=flown.dropped,
            ages_ms=flown.ages_ms,
            cloud=flown.cloud,
            bytes_up=0 if path == "edge" else timing.bytes_up,
            bytes_down=timing.bytes_down,
        )

    def _decided(
        self,
        timing: Timing,
        thinkers: list[Mind],
        observed: Observation,
        now_s: float,
    ) -> tuple[Command, str]:
        """What is handed over for the step that begins `now_s`, and who thought."""
        actions = {thinker: thinker.act(observed) for thinker in thinkers}
        plans = self._own not in actions or actions[self._own] is not None
        size, window = self._far.bytes, self._own.window
        after_s, who = timing.decide(now_s, size, window, plans=plans)
        chosen = {"edge": self._own, "cloud": self._far}.get(who)
        action = actions.get(chosen) if chosen else None
        return Command(at_s=now_s + after_s, seen_s=now_s, action=action), who

    def _facts(self, way: tuple[str, str]) -> SuccessFacts:
        path, network = way
        ours = [
            f
            for f in self.flown
            if (f.path, f.network, f.precision) == (*way, self.config.precision)
            and f.seed < self.config.seed + self.config.episodes
        ]
        steps = sum(f.steps for f in ours)
        budget_ms = self.config.timing.budget_ms  # what is older is a hold, as in the loop
        ages = [age for f in ours for age in f.ages_ms if age <= budget_ms]
        up = sum(f.bytes_up for f in ours) / max(steps, 1)
        down = sum(f.bytes_down for f in ours) / max(steps, 1)
        usd = self.config.costs.per_hour(up + down, 1 / STEP_S)
        uses_link = path != "edge"
        return SuccessFacts(
            path=path,
            network=network,
            precision=self.config.precision,
            episodes=len(ours),
            success=wilson(sum(f.success for f in ours), len(ours)),
            collisions_mean=round(sum(f.collisions for f in ours) / max(len(ours), 1), 3),
            held=round(sum(f.held * f.steps for f in ours) / max(steps, 1), 4),
            steps=steps,
            age=age_from(ages),
            missed=round(1 - len(ages) / max(steps, 1), 4),
            cloud_share=round(sum(f.cloud for f in ours) / max(len(ages), 1), 4),
            bytes_up=round(up, 1) if uses_link else None,
            bytes_down=round(down, 1) if uses_link else None,
            usd_per_hour=round(usd, 4) if uses_link else 0.0,
        )


class _Stamp(msgspec.Struct, frozen=True, kw_only=True):
    """What flights were made with; `measured` ones keep the times of their first run."""

    source_sha256: str
    config: FlightConfig

    def fits(self, other: _Stamp) -> bool:
        """Whether flights made with both belong together."""
        ours, theirs = self.config, other.config
        timing = ours.timing if ours.measured and theirs.measured else theirs.timing
        count, costs = ours.episodes, ours.costs
        same = msgspec.structs.replace(
            theirs, timing=timing, episodes=count, costs=costs, threads=0
        )
        return (self.source_sha256, msgspec.structs.replace(ours, threads=0)) == (
            other.source_sha256,
            same,
        )


def _flown_before(
    log: Path, bundle: Bundle, config: FlightConfig
) -> tuple[list[Flown], FlightConfig]:
    """What an earlier run with the same setting flew, and the setting to go on with.

    Raises `InputError` for flights of another setting.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    ours = _Stamp(source_sha256=bundle.manifest.provenance.source_sha256, config=config)
    stamp = log.with_suffix(".made-with.json")
    if not log.exists():
        stamp.write_bytes(msgspec.json.encode(ours))
        return [], config
    before = msgspec.json.decode(stamp.read_bytes(), type=_Stamp) if stamp.exists() else None
    if before is None or not ours.fits(before):
        raise InputError(
            f"{log} holds flights of another setting; choose another --report, or remove it"
        )
    lines = log.read_bytes().splitlines()
    flown = [msgspec.json.decode(line, type=Flown) for line in lines]
    return flown, msgspec.structs.replace(config, timing=before.config.timing)


def _held(world: Any, schedule: FloatArray) -> Any:  # noqa: ANN401
    """One step of `world` with a command for each of its 40 parts."""
    drive, parts = world.drive, iter(np.clip(schedule, -1.0, 1.0))
    world.drive = lambda _: drive(next(parts))
    try:
        return world.step(schedule[-1])
    finally:
        world.drive = drive
