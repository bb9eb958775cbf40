"""Success in the simulated worlds: a precision is judged by where its robot ends."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from jepa_edge.bench.decisions import wilson
from jepa_edge.bench.facts import Interval, Machine
from jepa_edge.bench.machine import load, machine
from jepa_edge.bench.variants import Variant, variants_of
from jepa_edge.bundle import Bundle, opened
from jepa_edge.contract import FloatArray, InputError, Senses, WrongUseError
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.sources import StepData, heard_in, seen
from jepa_edge.runtimes.stream import Stream
from jepa_edge.worlds.record import open_world
from jepa_edge.worlds.world import World

EPISODES_FILE = "episodes.jsonl"
AT_REST = 8
"""Steps that a demonstration stays at the goal: its latent should not tell how it came there."""
Observation = dict[str, FloatArray]


class ClosedLoopConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to fly, and how often: seeds ``seed`` to ``seed + episodes``, shared by all pilots."""

    bundle: Path
    world: str
    precisions: list[str] | None = None
    episodes: int = 20
    steps: int = 40
    seed: int = 100_000
    threads: int = 0
    planner: PlannerConfig = PlannerConfig()
    tick_ms: float = 200.0
    out: Path | None = None


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One episode of one pilot; `plan_ms` are its plans' times in order."""

    pilot: str
    seed: int
    success: bool
    steps: int
    collisions: int
    plan_ms: list[float]


class PilotFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What one pilot came to; times are None for pilots that do not plan."""

    pilot: str
    episodes: int
    success: Interval
    steps_median: float | None
    """Of the episodes that succeeded."""
    collisions_mean: float
    plan_ms_p50: float | None
    plan_ms_p99: float | None
    in_time: float | None
    """Share of plans done within a tick."""


class ClosedLoop(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one `jepa-edge evaluate` measured."""

    world: str
    bundle: str
    machine: Machine
    planner: PlannerConfig
    seed: int
    steps: int
    tick_ms: float
    left_out: int
    """Scenes in which the expert, too, never arrived: there is no picture of the goal."""
    pilots: list[PilotFacts]


class Pilot(Protocol):
    """Decides what to do next."""

    label: str
    plan_ms: list[float]

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """A new episode; `goal` is what was seen and heard on the way to the goal before."""

    def act(self, seen: Observation) -> FloatArray:
        """The action `[A]` after `seen`."""


class LatentPilot:
    """Encodes, plans in latent space towards the goal's latent, acts, and looks again."""

    def __init__(self, variant: Variant, config: ClosedLoopConfig) -> None:
        bundle, precision = variant.bundle, variant.precision
        self.label, self.senses = variant.label, bundle.manifest.senses
        self.stream = Stream(bundle, precision, threads=config.threads)
        rollout = open_engine(bundle, "rollout", precision, threads=config.threads)
        self.planner = Planner(rollout, config.planner)
        self.plan_ms: list[float] = []

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """Encodes the goal as it was streamed, then forgets all but its latent."""
        del world, seed
        self._restart()
        for shown in goal:
            latent = self._see(shown)
        self._goal = latent
        self._restart()
        self.planner.reset()

    def act(self, seen: Observation) -> FloatArray:
        """The first action of the best plan; rest until a whole window is seen."""
        self._history.append(self._see(seen))
        if not self.stream.is_warm:
            return np.zeros(self.planner.width, np.float32)
        plan = self.planner.plan(np.stack(list(self._history)), self._goal)
        self.plan_ms.append(plan.took_ms)
        first: FloatArray = plan.actions[0]
        return first

    def _restart(self) -> None:
        self.stream.reset()
        self.plan_ms = []
        self._before: FloatArray | None = None
        self._history: deque[FloatArray] = deque(maxlen=self.planner.history)

    def _see(self, observed: Observation) -> FloatArray:
        step = step_of(observed, self._before, self.senses)
        self._before = observed["samples"]
        encoded = self.stream.encode(step)
        if encoded is None:
            raise WrongUseError(f"{self.label} has no step graph; only causal models fly here")
        return encoded[1]


class Expert:
    """The world's own script, which knows where everything is: the upper bracket."""

    label = "expert"

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """Nothing to prepare."""
        del seed, goal
        self.world, self.plan_ms = world, list[float]()

    def act(self, seen: Observation) -> FloatArray:
        """What the script says."""
        del seen
        return self.world.expert()


class Wanderer:
    """Smooth random actions, as in the recorded data: the lower bracket."""

    label = "random"

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """A walk of its own for each seed."""
        del world, goal
        self.random, self.plan_ms = np.random.default_rng((seed, 7)), list[float]()
        self.last = np.zeros(4, np.float32)

    def act(self, seen: Observation) -> FloatArray:
        """A little further on."""
        del seen
        noise = self.random.standard_normal(self.last.shape)
        self.last = (0.8 * self.last + 0.35 * noise).astype(np.float32)
        return np.asarray(np.clip(1.5 * self.last, -1, 1), np.float32)


def evaluate(config: ClosedLoopConfig, progress: Callable[[str, int, int], None]) -> ClosedLoop:
    """Flies every pilot through the same scenes, in turns; resumes what `out` already holds.

    Raises:
        WrongUseError: the bundle cannot plan (no ``rollout`` or ``step`` graph), or no world.
        InputError: no renderer, or in none of the scenes the expert arrives.
    """
    before = load()
    with opened(config.bundle) as bundle:
        pilots = _pilots(bundle, config)
        world = open_world(config.world, size=_size(bundle.manifest.senses))
        log = _Log(config)
        left_out = 0
        for count in range(config.episodes):
            progress(config.world, count, config.episodes)
            left_out += not _scene(world, pilots, config, config.seed + count, log)
        progress(config.world, config.episodes, config.episodes)
        world.close()
    if left_out == config.episodes:
        raise InputError(f"the expert arrives in none of these scenes within {config.steps} steps")
    return ClosedLoop(
        world=config.world,
        bundle=bundle.manifest.name,
        machine=machine(config.threads, before),
        planner=config.planner,
        seed=config.seed,
        steps=config.steps,
        tick_ms=config.tick_ms,
        left_out=left_out,
        pilots=[_facts(pilot.label, log.flights, config.tick_ms) for pilot in pilots],
    )


def step_of(observed: Observation, before: FloatArray | None, senses: Senses) -> StepData:
    """What a robot's camera and microphone gave in one step, as the model takes it."""
    return StepData(
        index=0,
        captured_ns=0,
        video=seen(observed["frames"].astype(np.uint8), senses),
        audio=heard_in(observed["samples"], before, senses),
    )


def _pilots(bundle: Bundle, config: ClosedLoopConfig) -> list[Pilot]:
    pilots: list[Pilot] = []
    for variant in variants_of([bundle], config.precisions):
        graphs = bundle.manifest.precisions[variant.precision].graphs
        if missing := {"rollout", "step"} - set(graphs):
            raise WrongUseError(
                f"{bundle.manifest.name} cannot plan: it has no {' and no '.join(sorted(missing))} "
                "graph. Models with an action predictor have them"
            )
        pilots.append(LatentPilot(variant, config))
    return [*pilots, Expert(), Wanderer()]


def _size(senses: Senses) -> int:
    return senses.video.height if senses.video else 96


def _scene(
    world: World, pilots: list[Pilot], config: ClosedLoopConfig, seed: int, log: _Log
) -> bool:
    """Every pilot once in the scene of `seed`; False if there is no way to show its goal."""
    if all((pilot.label, seed) in log.done for pilot in pilots):
        return True
    goal = _demonstration(world, seed, config.steps)
    if goal is None:
        return False
    for pilot in pilots:
        if (pilot.label, seed) not in log.done:
            log.add(_fly(world, pilot, seed, config.steps, goal))
    return True


def _demonstration(world: World, seed: int, steps: int) -> list[Observation] | None:
    """What the expert sees and hears until it arrives, and at rest there; None if it does not."""
    first, _ = world.reset(seed=seed)
    shown = [first]
    for _ in range(steps):
        observed, _, finished, _, info = world.step(world.expert())
        shown.append(observed)
        if finished:
            rest = [world.step(world.rest())[0] for _ in range(AT_REST)]
            return [*shown, *rest] if info["success"] else None
    return None


def _fly(world: World, pilot: Pilot, seed: int, steps: int, goal: list[Observation]) -> Flight:
    observed, info = world.reset(seed=seed)
    pilot.begin(world, seed, goal)
    done = 0
    for done in itertools.count(1):
        observed, _, finished, _, info = world.step(pilot.act(observed))
        if finished or done == steps:
            break
    return Flight(
        pilot=pilot.label,
        seed=seed,
        success=bool(info["success"]),
        steps=done,
        collisions=int(info["collisions"]),
        plan_ms=[round(ms, 2) for ms in pilot.plan_ms],
    )


class _Log:
    """The flights so far, each on disk before the next begins."""

    def __init__(self, config: ClosedLoopConfig) -> None:
        self.flights: list[Flight] = []
        self.file = config.out / EPISODES_FILE if config.out else None
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        made_with = msgspec.json.encode(
            msgspec.structs.replace(config, out=None, episodes=0), enc_hook=str
        )
        stamp = self.file.with_suffix(".made-with.json")
        if self.file.exists() and (not stamp.exists() or stamp.read_bytes() != made_with):
            raise InputError(
                f"{self.file} holds episodes of another setting; choose another --out, or remove it"
            )
        stamp.write_bytes(made_with)
        if self.file.exists():
            lines = self.file.read_bytes().splitlines()
            self.flights = [msgspec.json.decode(line, type=Flight) for line in lines]

    @property
    def done(self) -> set[tuple[str, int]]:
        """Pilots and seeds that have flown."""
        return {(flight.pilot, flight.seed) for flight in self.flights}

    def add(self, flight: Flight) -> None:
        """One more."""
        self.flights.append(flight)
        if self.file is not None:
            with self.file.open("ab") as log:
                log.write(msgspec.json.encode(flight) + b"\n")


def _facts(pilot: str, flights: list[Flight], tick_ms: float) -> PilotFacts:
    ours = [flight for flight in flights if flight.pilot == pilot]
    won = [flight.steps for flight in ours if flight.success]
    plans = np.array([ms for flight in ours for ms in flight.plan_ms])
    return PilotFacts(
        pilot=pilot,
        episodes=len(ours),
        success=wilson(len(won), len(ours)),
        steps_median=float(np.median(won)) if won else None,
        collisions_mean=round(float(np.mean([flight.collisions for flight in ours])), 3),
        plan_ms_p50=round(float(np.percentile(plans, 50)), 2) if plans.size else None,
        plan_ms_p99=round(float(np.percentile(plans, 99)), 2) if plans.size else None,
        in_time=round(float((plans <= tick_ms).mean()), 4) if plans.size else None,
    )
