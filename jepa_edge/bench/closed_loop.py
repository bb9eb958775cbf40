"""Success in the simulated worlds: a precision is judged by where its robot ends."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.cloned import Cloned
from jepa_edge.bench.facts import Machine
from jepa_edge.bench.film import Filmed, film
from jepa_edge.bench.flights import Flight, PilotFacts, facts_of
from jepa_edge.bench.machine import load, machine
from jepa_edge.bench.pilots import (
    ClonePilot,
    Expert,
    LatentPilot,
    Nominal,
    Pilot,
    Wanderer,
    Watcher,
)
from jepa_edge.bench.variants import Variant, variants_of
from jepa_edge.bundle import Bundle, Manifest, open_bundle, opened
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, InputError, Senses, WrongUseError
from jepa_edge.media.dataset import Episode, open_dataset
from jepa_edge.runtimes.planner import PlannerConfig
from jepa_edge.runtimes.viewer import Viewer, open_viewer
from jepa_edge.worlds.pool import in_processes
from jepa_edge.worlds.record import open_world
from jepa_edge.worlds.world import Observation, World

EPISODES_FILE = "episodes.jsonl"


class ClosedLoopConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to fly, and how often: seeds ``seed`` to ``seed + episodes``, shared by all pilots."""

    bundle: Path
    world: str
    level: str = ""
    precisions: list[str] | None = None
    episodes: int = 20
    steps: int = 40
    seed: int = 100_000
    threads: int = 0
    workers: int = 1
    """Processes that fly scenes side by side; plans then take longer, which a deadline notices."""
    planner: PlannerConfig = PlannerConfig()
    tick_ms: float = 200.0
    deaf: bool = False
    """Also without its sound, each precision."""
    rivals: Path | None = None
    """Recordings for behaviour cloning, which then flies too, with the nominal-physics planner."""
    film: Path | None = None
    """Where to put a film of the first precision in the first scene."""
    viewer: Path | None = None
    """What `jepa-edge viewer` wrote: the film then shows what the plans expected, as pictures."""
    out: Path | None = None

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for a viewer with nothing to show on, or no workers."""
        if self.workers < 1:
            raise WrongUseError(f"workers must be at least 1, not {self.workers}")
        if self.viewer and self.film is None:
            raise WrongUseError("--viewer shows pictures in the film: give --film, too")


class ClosedLoop(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one `jepa-edge evaluate` measured."""

    world: str
    level: str
    bundle: str
    machine: Machine
    planner: PlannerConfig
    seed: int
    steps: int
    tick_ms: float
    left_out: int
    """Scenes in which the expert, too, never arrived: there is no picture of the goal."""
    pilots: list[PilotFacts]
    film: Filmed | None = None


def evaluate(config: ClosedLoopConfig, progress: Callable[[str, int, int], None]) -> ClosedLoop:
    """Flies every pilot through the same scenes, in turns; resumes what `out` already holds.

    Raises:
        WrongUseError: the bundle cannot plan (no ``rollout`` or ``step`` graph), or no world.
        InputError: no renderer, or in none of the scenes the expert arrives.
    """
    before = load()
    with opened(config.bundle) as bundle:
        viewer = open_viewer(config.viewer, bundle.manifest)
        world, pilots = _crew(bundle, config, progress)
        log = _Log(config, bundle.manifest)
        left_out = 0
        unpacked = msgspec.structs.replace(config, bundle=bundle.folder)
        for count, flights in enumerate(_flown(world, pilots, unpacked, log.done), 1):
            left_out += flights is None
            log.add(flights or [])
            progress(config.world, count, config.episodes)
        filmed = _filmed(world, pilots[0], config, viewer)
        world.close()
    if left_out == config.episodes:
        raise InputError(f"the expert arrives in none of these scenes within {config.steps} steps")
    return ClosedLoop(
        world=config.world,
        level=world.level,
        bundle=bundle.manifest.name,
        machine=machine(config.threads, before),
        planner=config.planner,
        seed=config.seed,
        steps=config.steps,
        tick_ms=config.tick_ms,
        left_out=left_out,
        pilots=[facts_of(p.label, pilots[0].label, log.flights, config.tick_ms) for p in pilots],
        film=filmed,
    )


def _crew(
    bundle: Bundle, config: ClosedLoopConfig, progress: Callable[[str, int, int], None]
) -> tuple[World, list[Pilot]]:
    size = _size(bundle.manifest.senses)
    world = open_world(config.world, size=size, level=config.level)
    return world, _pilots(bundle, config, progress)


def _pilots(
    bundle: Bundle, config: ClosedLoopConfig, progress: Callable[[str, int, int], None]
) -> list[Pilot]:
    pilots: list[Pilot] = []
    variants = variants_of([bundle], config.precisions)
    for variant in variants:
        graphs = bundle.manifest.precisions[variant.precision].graphs
        if "rollout" not in graphs or not {"step", "encoder"} & set(graphs):
            raise WrongUseError(
                f"{bundle.manifest.name} cannot plan: it has no rollout graph, or none that "
                "encodes. Models with an action predictor have them"
            )
        for deaf in (False, True) if config.deaf else (False,):
            pilot = LatentPilot(variant, config.planner, threads=config.threads, deaf=deaf)
            pilots.append(pilot)
    if config.rivals is not None:
        pilots += _rivals(variants[0], config, config.rivals, progress)
    return [*pilots, Expert(), Wanderer()]


def _rivals(
    variant: Variant,
    config: ClosedLoopConfig,
    data: Path,
    progress: Callable[[str, int, int], None],
) -> list[Pilot]:
    """What needs no world model: clones of the recorded behaviour, and textbook kinematics."""
    watcher, dataset = Watcher(variant, threads=config.threads), open_dataset(data)
    latents, actions = [], []
    for index in range(dataset.episodes):
        progress("encoding recordings to clone", index, dataset.episodes)
        episode = dataset.read(index, watcher.senses)
        latents.append(_latents_of(watcher, episode))
        actions.append(episode.actions)
    facts = variant.bundle.manifest.model
    clones = [
        Cloned(latents, actions, history=facts.history, to_goal=to_goal)
        for to_goal in (False, True)
    ]
    return [
        ClonePilot(watcher, clones[0], "cloned"),
        ClonePilot(watcher, clones[1], "cloned to goal"),
        Nominal(config.planner, facts),
    ]


def _latents_of(watcher: Watcher, episode: Episode) -> FloatArray:
    """The pooled latents `[S, P]` of a recorded episode."""
    watcher.restart()
    size, seen = watcher.senses.samples_per_step, []
    for step in range(len(episode.actions)):
        observed = {
            "frames": episode.frames[FRAMES_PER_STEP * step : FRAMES_PER_STEP * (step + 1)],
            "samples": episode.samples[size * step : size * (step + 1)],
        }
        history = watcher.see(observed)
        seen.append(None if history is None else history[-1])
    first = next((latent for latent in seen if latent is not None), None)
    if first is None:
        raise InputError("the recorded episodes are shorter than the model's window")
    return np.stack([first if latent is None else latent for latent in seen])


def _filmed(
    world: World, pilot: Pilot, config: ClosedLoopConfig, viewer: Viewer | None
) -> Filmed | None:
    if config.film is None:
        return None
    assert isinstance(pilot, LatentPilot)
    return film(world, pilot, seed=config.seed, steps=config.steps, out=config.film, viewer=viewer)


def _size(senses: Senses) -> int:
    return senses.video.height if senses.video else 96


def _flown(
    world: World, pilots: list[Pilot], config: ClosedLoopConfig, done: set[tuple[str, int]]
) -> Iterator[list[Flight] | None]:
    """Every scene's flights that are not `done`, as they are finished; None as `_scene`."""
    seeds = range(config.seed, config.seed + config.episodes)
    if config.workers == 1:
        for seed in seeds:
            yield _scene(world, pilots, config, seed, done)
        return
    yield from in_processes(_scene_of, [(config, seed, done) for seed in seeds], config.workers)


def _scene_of(job: tuple[ClosedLoopConfig, int, set[tuple[str, int]]]) -> list[Flight] | None:
    """`_scene` in a process of a pool, whose world and pilots stay for the next one."""
    config, seed, done = job
    if not _STAYING:
        bundle = open_bundle(config.bundle, verify=False)
        _STAYING.append(_crew(bundle, config, lambda *_: None))
    ((world, pilots),) = _STAYING
    return _scene(world, pilots, config, seed, done)


_STAYING: list[tuple[World, list[Pilot]]] = []


def _scene(
    world: World,
    pilots: list[Pilot],
    config: ClosedLoopConfig,
    seed: int,
    done: set[tuple[str, int]],
) -> list[Flight] | None:
    """Every pilot once in the scene of `seed`; None if there is no way to show its goal."""
    waiting = [pilot for pilot in pilots if (pilot.label, seed) not in done]
    goal = world.demonstrate(seed, config.steps) if waiting else []
    if goal is None:
        return None
    return [_fly(world, pilot, seed, config.steps, goal) for pilot in waiting]


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
        path_m=round(float(info["path_m"]), 3),
        plan_ms=[round(ms, 2) for ms in pilot.plan_ms],
    )


class _Log:
    """The flights so far, each scene's on disk before the next ones."""

    def __init__(self, config: ClosedLoopConfig, manifest: Manifest) -> None:
        self.flights: list[Flight] = []
        self.file = config.out / EPISODES_FILE if config.out else None
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        flown = msgspec.structs.replace(
            config, out=None, film=None, viewer=None, episodes=0, workers=1
        )
        bundle = msgspec.json.encode((manifest.model, sorted(manifest.files.items())))
        known = {"config": flown, "bundle_sha256": hashlib.sha256(bundle).hexdigest()}
        made_with = msgspec.json.encode(known, enc_hook=str)
        stamp = self.file.with_suffix(".made-with.json")
        if self.file.exists() and (not stamp.exists() or stamp.read_bytes() != made_with):
            raise InputError(
                f"{self.file} holds episodes of another setting or bundle; choose another --out, "
                "or remove it"
            )
        stamp.write_bytes(made_with)
        if self.file.exists():
            lines = self.file.read_bytes().splitlines()
            self.flights = [msgspec.json.decode(line, type=Flight) for line in lines]

    @property
    def done(self) -> set[tuple[str, int]]:
        """Pilots and seeds that have flown."""
        return {(flight.pilot, flight.seed) for flight in self.flights}

    def add(self, flights: list[Flight]) -> None:
        """Those of one more scene."""
        self.flights += flights
        if self.file is not None:
            with self.file.open("ab") as log:
                log.writelines(msgspec.json.encode(flight) + b"\n" for flight in flights)
