"""Recording: episodes of a world as a LeRobot v3 dataset, in parallel and resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.contract import FloatArray, InputError, WrongUseError
from jepa_edge.media.dataset import Episode, Layout, finish_dataset, has_episode, write_episode
from jepa_edge.worlds.pool import in_processes
from jepa_edge.worlds.sound import SAMPLE_RATE
from jepa_edge.worlds.world import World

WORLDS = ("forest", "reach", "rover")


class RecordConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to record. An episode depends on (world, level, seed, index) alone.

    `level` is one of the world's, empty for its usual one, or ``all``: each in turn.
    """

    world: str
    out: Path
    episodes: int = 100
    steps: int = 30
    seed: int = 0
    workers: int = 2
    expert_share: float = 0.5
    size: int = 96
    level: str = ""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What is there after recording."""

    folder: str
    episodes: int
    recorded_now: int


def open_world(name: str, *, size: int = 96, level: str = "") -> World:
    """The world called `name` at a `level`. Raises `WrongUseError` if there is none."""
    match name:
        case "forest":
            from jepa_edge.worlds.forest import Forest

            return Forest(size, level)
        case "reach":
            from jepa_edge.worlds.reach import Reach

            return Reach(size, level)
        case "rover":
            from jepa_edge.worlds.rover import Rover

            return Rover(size, level)
        case _:
            raise WrongUseError(f"unknown world {name!r}; known: {', '.join(WORLDS)}")


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What every episode of a dataset was made with: kept beside it, so that none is mixed in."""

    world: str
    steps: int
    seed: int
    expert_share: float
    size: int
    level: str = ""


def record(config: RecordConfig, progress: Callable[[int, int], None]) -> Recorded:
    """Records the episodes that are missing; `progress` is called with (done, total).

    However it ends, the folder is a whole dataset of the episodes that are complete.

    Raises:
        WrongUseError: a count below 1, an unknown world, or a folder recorded with other flags.
        CheckFailedError: a recording process was killed.
    """
    if config.episodes < 1 or config.steps < 1 or config.workers < 1:
        raise WrongUseError("--episodes, --steps and --workers must each be at least 1")
    if not 0 <= config.expert_share <= 1:
        raise WrongUseError(f"--expert-share is {config.expert_share}; it must be from 0 to 1")
    layout = _layout(_world_of(config, 0), config.size)
    _claim(config)
    missing = [i for i in range(config.episodes) if not has_episode(config.out, i)]
    done = config.episodes - len(missing)
    progress(done, config.episodes)
    try:
        for _ in _recorded(config, missing):
            done += 1
            progress(done, config.episodes)
    finally:
        count = finish_dataset(config.out, layout)
    return Recorded(folder=str(config.out), episodes=count, recorded_now=len(missing))


def _claim(config: RecordConfig) -> None:
    """Notes what the episodes are made with, or refuses to add others to those that are there."""
    file = config.out / "meta" / "recording.json"
    now = Made(
        world=config.world,
        steps=config.steps,
        seed=config.seed,
        expert_share=config.expert_share,
        size=config.size,
        level=config.level,
    )
    if not file.is_file():
        if has_episode(config.out, 0):
            raise WrongUseError(
                f"{config.out} holds episodes of unknown origin; name another --out"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(now))
        part.replace(file)
        return
    try:
        before = msgspec.json.decode(file.read_bytes(), type=Made)
    except msgspec.DecodeError as error:
        raise InputError(f"{file} does not say what was recorded: {error}") from error
    for name in Made.__struct_fields__:
        was, asked = getattr(before, name), getattr(now, name)
        if was != asked:
            raise WrongUseError(
                f"{config.out} was recorded with {name} {was}, asked was {asked}; "
                "ask for the same or name another --out"
            )


def _recorded(config: RecordConfig, missing: list[int]) -> Iterator[int]:
    jobs = [(config, index) for index in missing]
    if config.workers == 1 or len(jobs) < 2:
        yield from map(_record_one, jobs)
        return
    yield from in_processes(_record_one, jobs, config.workers)


def _record_one(job: tuple[RecordConfig, int]) -> int:
    config, index = job
    world = _world_of(config, index)
    try:
        episode = play(world, seed=config.seed + 100_003 * index, config=config, index=index)
    finally:
        world.close()
    write_episode(config.out, _layout(world, config.size), episode)
    return index


def _world_of(config: RecordConfig, index: int) -> World:
    """The world of episode `index`, at its level."""
    every = config.level == "all"
    world = open_world(config.world, size=config.size, level="" if every else config.level)
    if every:
        level = world.levels[index % len(world.levels)]
        world = open_world(config.world, size=config.size, level=level)
    return world


def play(world: World, *, seed: int, config: RecordConfig, index: int) -> Episode:
    """One episode of exactly `config.steps` steps, by a noisy expert or a smooth random policy.

    At levels asked for by name the random policy, and half of the expert's episodes, begin
    anywhere, to see all of the world.
    """
    random = np.random.default_rng((seed, 7))
    helped = random.uniform() < config.expert_share
    anywhere = bool(config.level) and (not helped or random.uniform() < 0.5)
    world.reset(seed=seed, options={"roam": anywhere})
    wander = world.rest()
    frames, samples, actions, states = [], [], [], []
    for _ in range(config.steps):
        wander = _smooth_noise(wander, random)
        action = np.clip(world.expert() + 0.7 * wander if helped else 1.5 * wander, -1, 1)
        seen, *_ = world.step(action)
        frames.append(seen["frames"])
        samples.append(seen["samples"])
        states.append(seen["state"])
        actions.append(action.astype(np.float32))
    return Episode(
        index=index,
        task=world.name,
        frames=np.concatenate(frames),
        samples=np.concatenate(samples),
        actions=np.stack(actions),
        state=np.stack(states),
    )


def _smooth_noise(last: FloatArray, random: np.random.Generator) -> FloatArray:
    """Noise that keeps its direction for about a second: actions must show in what follows."""
    return np.asarray(0.8 * last + 0.35 * random.standard_normal(last.shape), np.float32)


def _layout(world: World, size: int) -> Layout:
    return Layout(
        world=world.name,
        fps=10,
        height=size,
        width=size,
        sample_rate=SAMPLE_RATE,
        state_names=list(world.state_names),
        action_names=list(world.action_names),
    )
