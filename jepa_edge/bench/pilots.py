"""Who drives through the simulated worlds: latent plans, and the rivals they are judged by."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np

from jepa_edge.bench.cloned import Cloned
from jepa_edge.bench.variants import Variant
from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import CheckFailedError, FloatArray, InputError, Senses
from jepa_edge.media.features import silence
from jepa_edge.runtimes.engine import Engine, open_engine
from jepa_edge.runtimes.planner import Cost, Plan, Planner, PlannerConfig
from jepa_edge.runtimes.sources import StepData, heard_in, seen
from jepa_edge.runtimes.stream import Stream
from jepa_edge.worlds.world import Observation, World


class Pilot(Protocol):
    """Decides what to do next."""

    label: str
    plan_ms: list[float]

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """A new episode; `goal` is what is seen and heard on the way to the goal, and there."""

    def act(self, seen: Observation) -> FloatArray:
        """The action `[A]` after `seen`."""


class Watcher:
    """Encodes what a robot senses, step by step, and keeps the last latents."""

    def __init__(self, variant: Variant, *, threads: int, deaf: bool = False) -> None:
        self.senses, self.deaf = variant.bundle.manifest.senses, deaf
        self.length = variant.bundle.manifest.model.history
        self.stream = Stream(variant.bundle, variant.precision, threads=threads)
        self.restart()

    def restart(self) -> None:
        """Forgets everything."""
        self.stream.reset()
        self._before: FloatArray | None = None
        self._history: deque[FloatArray] = deque(maxlen=self.length)

    def see(self, observed: Observation) -> FloatArray | None:
        """The last latents `[Hh, P]`, the first repeated for those before; None while warming."""
        step = step_of(observed, self._before, self.senses, deaf=self.deaf)
        self._before = observed["samples"]
        encoded = self.stream.encode(step)
        if encoded is None:
            return None
        self._history.append(encoded[1])
        missing = self.length - len(self._history)
        return np.stack([self._history[0]] * missing + list(self._history))

    def goal_of(self, shown: list[Observation]) -> FloatArray:
        """The latent `[P]` of the last of what is shown. Raises `InputError` if it is too short."""
        self.restart()
        seen = [self.see(observed) for observed in shown]
        self.restart()
        if not seen or seen[-1] is None:
            raise InputError("the goal is shown for less than the model's window")
        return np.asarray(seen[-1][-1], np.float32)


class LatentPilot:
    """Encodes, plans in latent space towards the goal's latent, acts, and looks again."""

    def __init__(
        self, variant: Variant, config: PlannerConfig, *, threads: int, deaf: bool = False
    ) -> None:
        self.label = variant.label + (" deaf" if deaf else "")
        self.watcher = Watcher(variant, threads=threads, deaf=deaf)
        rollout: Engine = open_engine(variant.bundle, "rollout", variant.precision, threads=threads)
        self.planner = Planner(rollout, config, variant.bundle.manifest.model)
        self.plan_ms: list[float] = []
        self.latent: FloatArray | None = None
        self.plan: Plan | None = None

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """Encodes the goal as it would be streamed, then forgets all but its latent."""
        del world, seed
        self.goal = self.watcher.goal_of(goal)
        self.planner.reset()
        self.plan_ms, self.plan, self.latent = [], None, None

    def act(self, seen: Observation) -> FloatArray:
        """The first action of the best plan; rest while warming, or when there is no plan."""
        history = self.watcher.see(seen)
        rest = np.zeros(self.planner.width, np.float32)
        if history is None:
            return rest
        self.latent = history[-1]
        try:
            self.plan = self.planner.plan(history, self.goal)
        except CheckFailedError:
            self.plan = None
            return rest
        self.plan_ms.append(self.plan.took_ms)
        first: FloatArray = self.plan.actions[0]
        return first


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
        del goal
        self.random, self.plan_ms = np.random.default_rng((seed, 7)), list[float]()
        self.last = world.rest()

    def act(self, seen: Observation) -> FloatArray:
        """A little further on."""
        del seen
        noise = self.random.standard_normal(self.last.shape)
        self.last = (0.8 * self.last + 0.35 * noise).astype(np.float32)
        return np.asarray(np.clip(1.5 * self.last, -1, 1), np.float32)


NOMINAL_ITERATIONS = 4
"""At the least: kinematics have no errors for a search to find, and each plan begins anew."""


class Nominal:
    """Plans the same way through textbook kinematics, told where the goal is to the millimetre.

    What a model of the world must beat to be worth its weights: it sees no obstacles.
    """

    label = "nominal physics"

    def __init__(self, config: PlannerConfig, facts: ModelFacts) -> None:
        self.config, self.candidates = config, facts.candidates
        self.horizon, self.effort = facts.rollout_horizon, Cost(config, facts).effort
        self.plan_ms: list[float] = []

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """Draws the same candidates in each episode."""
        del seed, goal
        self.world, self.random = world, np.random.default_rng(self.config.seed)
        self.plan_ms = []

    def act(self, seen: Observation) -> FloatArray:
        """The first action of the best of the candidates, searched as CEM does."""
        del seen
        width = len(self.world.action_names)
        mean, spread = np.zeros((self.horizon, width)), self.config.spread
        weights = np.arange(1, self.horizon + 1) / np.arange(1, self.horizon + 1).sum()
        elites = max(2, round(self.candidates * self.config.elites))
        for _ in range(max(self.config.iterations, NOMINAL_ITERATIONS)):
            noise = self.random.standard_normal((self.candidates, self.horizon, width))
            drawn = np.clip(mean + spread * noise, -1, 1).astype(np.float32)
            effort = self.effort * np.square(drawn).mean(axis=(1, 2))
            ranked = drawn[np.argsort(self.world.nominal(drawn) @ weights + effort, kind="stable")]
            mean, spread = (
                ranked[:elites].mean(0),
                ranked[:elites].std(0) + self.config.least_spread,
            )
        return np.asarray(ranked[0, 0], np.float32)


class ClonePilot:
    """Does what was done in the recordings after such latents: no model of what follows."""

    def __init__(self, watcher: Watcher, cloned: Cloned, label: str) -> None:
        self.watcher, self.cloned, self.label = watcher, cloned, label
        self.plan_ms: list[float] = []

    def begin(self, world: World, seed: int, goal: list[Observation]) -> None:
        """Encodes the goal, for the clone that looks at it."""
        del seed
        self.rest, self.plan_ms = world.rest(), []
        self.goal = self.watcher.goal_of(goal)

    def act(self, seen: Observation) -> FloatArray:
        """The cloned action."""
        history = self.watcher.see(seen)
        return self.rest if history is None else self.cloned.action(history, self.goal)


def step_of(
    observed: Observation, before: FloatArray | None, senses: Senses, *, deaf: bool = False
) -> StepData:
    """What a robot's camera and microphone gave in one step, as the model takes it."""
    audio = heard_in(observed["samples"], before, senses)
    if deaf and senses.audio and audio is not None:
        audio = np.broadcast_to(silence(senses.audio, audio.shape[-1]), audio.shape).copy()
    return StepData(
        index=0,
        captured_ns=0,
        video=seen(observed["frames"].astype(np.uint8), senses),
        audio=audio,
    )
