"""The planner: which actions lead to the wanted latent, by search over a `rollout` graph."""

from __future__ import annotations

import time
from typing import Literal

import msgspec
import numpy as np

from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import CheckFailedError, FloatArray, WrongUseError
from jepa_edge.runtimes.engine import Engine


class PlannerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to search.

    Attributes:
        method: ``cem`` (Rubinstein 1999), ``icem`` (coloured noise, elites kept between iterations
            and ticks; Pinneri et al., arXiv:2008.06389) or ``mppi`` (Williams et al. 2017).
        iterations: calls of the rollout graph per plan, at the most. More do not help the
            pilots that are shipped: each plan begins with the last one (docs/closed-loop.md).
        elites: share of the candidates that the next iteration is drawn from.
        kept: share of the elites that icem puts among the next candidates.
        colour: exponent of icem's noise spectrum over the horizon; 0 is white.
        temperature: of mppi's weights, in standard deviations of the energies.
        spread: standard deviation that each plan begins with; actions are in [-1, 1].
        least_spread: standard deviation that iterations do not go below.
        deadline_ms: no iteration is begun that would end later; None: do all of them.
        effort: energy per squared unit of action, relative to the goal's length (or in metres);
            None: what the model was given in training.
        caution: energy per metre that a predicted clearance lacks, where the model knows of such;
            None: the model's.
        wariness: energy of predicted latents unlike any that were seen in training: their mean
            square beyond 2, where it is 1 in training (SIGReg holds it there).
        bridge_steps: how many steps of the last plan go on when the engine fails; 0: hold at once.
        seed: of the candidates.
    """

    method: Literal["cem", "icem", "mppi"] = "icem"
    iterations: int = 1
    elites: float = 0.125
    kept: float = 0.3
    colour: float = 2.0
    temperature: float = 0.3
    spread: float = 0.6
    least_spread: float = 0.05
    deadline_ms: float | None = None
    effort: float | None = None
    caution: float | None = None
    wariness: float = 0.1
    bridge_steps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for values no search can use."""
        if self.iterations < 1:
            raise WrongUseError(f"iterations must be at least 1, not {self.iterations}")
        if not 0 < self.elites <= 1 or not 0 <= self.kept <= 1:
            raise WrongUseError("elites is a share in (0, 1], kept one in [0, 1]")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: `actions [J, A]` in [-1, 1], and how they were found.

    ``energy`` is that of the best candidate, ``latents [J, P]`` where it is predicted to lead (None
    for what is left of an earlier plan); ``complete`` says whether every iteration was done before
    the deadline; ``source`` whether it was found now, or is what is left of the last plan because
    the engine gave nothing to go by.
    """

    actions: FloatArray
    latents: FloatArray | None = None
    energy: float
    source: Literal["search", "last plan"] = "search"
    iterations: int
    complete: bool
    took_ms: float


class Cost:
    """What candidates are ranked by: distance from the goal, effort, clearance, and the unknown.

    A model with grounded dimensions measures the distance in their units (metres), by those that
    make a goal; one without takes the whole latent, relative to the goal's length.
    """

    def __init__(self, config: PlannerConfig, facts: ModelFacts) -> None:
        grounded = facts.grounded
        self.wariness, self.count = config.wariness, len(grounded)
        self.effort = facts.effort if config.effort is None else config.effort
        self.caution = facts.caution if config.caution is None else config.caution
        self.goal = [index for index, g in enumerate(grounded) if g.goal]
        self.unit = np.array([grounded[index].std for index in self.goal], np.float32)
        kept = [(i, g, g.at_least) for i, g in enumerate(grounded) if g.at_least is not None]
        self.kept = [index for index, _, _ in kept]
        self.least = np.array([(least - g.mean) / g.std for _, g, least in kept], np.float32)
        self.kept_unit = np.array([g.std for _, g, _ in kept], np.float32)

    def __call__(self, rolled: FloatArray, goal: FloatArray, actions: FloatArray) -> FloatArray:
        """Energies `[K]` of `rolled [K, J, P]`; infinite where anything is not finite."""
        weights = np.arange(1, rolled.shape[1] + 1, dtype=np.float32)
        energies = self._away(rolled, goal) @ (weights / weights.sum())
        energies += self.effort * np.square(actions).mean(axis=(1, 2))
        if self.kept:
            lack = np.maximum(self.least - rolled[..., self.kept], 0.0) * self.kept_unit
            energies += self.caution * lack.sum(axis=2).mean(axis=1)
        if self.count:
            size = np.square(rolled[..., self.count :]).mean(axis=2)
            energies += self.wariness * np.maximum(size - 2.0, 0.0).mean(axis=1)
        finite: FloatArray = np.where(np.isfinite(energies), energies, np.inf).astype(np.float32)
        return finite

    def _away(self, rolled: FloatArray, goal: FloatArray) -> FloatArray:
        """Distances `[K, J]` from the goal."""
        if self.goal:
            apart = (rolled[..., self.goal] - goal[self.goal]) * self.unit
            return np.asarray(np.linalg.norm(apart, axis=2), np.float32)
        size = float(np.linalg.norm(goal)) or 1.0
        return np.asarray(np.linalg.norm(rolled - goal, axis=2) / size, np.float32)


class Planner:
    """Searches for actions whose predicted latents reach a goal; one engine call per iteration.

    It is anytime: the deadline cuts iterations off, never the answer. Each plan begins with the
    last one, a step on.
    """

    def __init__(self, rollout: Engine, config: PlannerConfig, facts: ModelFacts) -> None:
        self.engine, self.config = rollout, config
        self.cost = Cost(config, facts)
        shapes = {spec.name: spec.shape for spec in rollout.inputs}
        self.candidates, self.horizon, self.width = shapes["actions"]
        self.history = shapes["history"][1]
        self.elites = max(2, round(self.candidates * config.elites))
        self.reset()

    def reset(self) -> None:
        """Forgets the last plan, and draws the same candidates again."""
        self._random = np.random.default_rng(self.config.seed)
        self._mean = np.zeros((self.horizon, self.width), np.float32)
        self._carried = np.zeros((0, self.horizon, self.width), np.float32)
        self._slowest_ms = 0.0
        self._left = 0

    def plan(self, history: FloatArray, goal: FloatArray) -> Plan:
        """The best actions found from `history [Hh, P]`, the last pooled latents, to `goal [P]`.

        When the engine fails or gives no finite energy, the last plan goes on for `bridge_steps`.
        Raises `CheckFailedError` after those: hold, do not act.
        """
        began = time.perf_counter()
        try:
            plan = self._search(history, goal, began)
            self._left = min(self.config.bridge_steps, self.horizon - 1)
        except CheckFailedError:
            if not self._left:
                raise
            self._left -= 1
            plan = Plan(
                actions=np.clip(self._mean, -1.0, 1.0),
                latents=None,
                energy=np.inf,
                source="last plan",
                iterations=0,
                complete=False,
                took_ms=round(1e3 * (time.perf_counter() - began), 3),
            )
        self._shift()
        return plan

    def _search(self, history: FloatArray, goal: FloatArray, began: float) -> Plan:
        config, best, lowest, done = self.config, self._mean, np.inf, 0
        before, latents = self._mean, None
        spread = np.full_like(self._mean, config.spread)
        while done < config.iterations and (done == 0 or self._fits(began)):
            started = time.perf_counter()
            candidates = self._candidates(spread)
            rolled = self._rolled(history, candidates)
            energies = self.cost(rolled, goal, candidates)
            order = np.argsort(energies, kind="stable")
            if energies[order[0]] < lowest:
                lowest, best = float(energies[order[0]]), candidates[order[0]]
                latents = rolled[order[0]]
            spread = self._narrow(candidates[order], energies[order])
            done += 1
            self._slowest_ms = max(self._slowest_ms, 1e3 * (time.perf_counter() - started))
        if not np.isfinite(lowest):
            self._mean = before
            raise CheckFailedError("the rollout graph gave no finite energy for any candidate")
        chosen = best if config.method != "mppi" else self._mean.copy()
        return Plan(
            actions=np.clip(chosen, -1.0, 1.0),
            latents=latents,
            energy=lowest,
            iterations=done,
            complete=done == config.iterations,
            took_ms=round(1e3 * (time.perf_counter() - began), 3),
        )

    def _fits(self, began: float) -> bool:
        """Whether one more iteration, as slow as the slowest, ends before the deadline."""
        if self.config.deadline_ms is None:
            return True
        return 1e3 * (time.perf_counter() - began) + self._slowest_ms <= self.config.deadline_ms

    def _candidates(self, spread: FloatArray) -> FloatArray:
        """`[K, J, A]`: the mean itself, what was carried over, and noise around the mean."""
        shape = (self.candidates, self.horizon, self.width)
        colour = self.config.colour if self.config.method == "icem" else 0.0
        drawn = self._mean + spread * coloured(self._random, shape, colour)
        drawn[0] = self._mean
        if len(self._carried):
            drawn[1 : 1 + len(self._carried)] = self._carried
        clipped: FloatArray = np.clip(drawn, -1.0, 1.0).astype(np.float32)
        return clipped

    def _rolled(self, history: FloatArray, actions: FloatArray) -> FloatArray:
        feed = {"history": np.ascontiguousarray(history[None, -self.history :]), "actions": actions}
        rolled: FloatArray = self.engine.run(feed)["rollout"]
        return rolled

    def _narrow(self, ranked: FloatArray, energies: FloatArray) -> FloatArray:
        """Moves the mean towards the best of the `ranked` candidates; returns the next spread."""
        if self.config.method == "mppi":
            self._mean = self._weighted(ranked, energies)
            return np.full_like(self._mean, self.config.spread)
        elites = ranked[: self.elites]
        self._mean = elites.mean(axis=0)
        if self.config.method == "icem":
            self._carried = elites[: round(self.config.kept * self.elites)]
        spread: FloatArray = np.maximum(elites.std(axis=0), self.config.least_spread)
        return spread

    def _weighted(self, ranked: FloatArray, energies: FloatArray) -> FloatArray:
        """MPPI's mean of all candidates, by exp(-energy)."""
        finite = np.isfinite(energies)
        if not finite.any():
            return self._mean
        scale = self.config.temperature * float(energies[finite].std()) + 1e-9
        weights = np.where(finite, np.exp((energies[0] - energies) / scale), 0.0)
        mean: FloatArray = np.tensordot(weights / weights.sum(), ranked, 1).astype(np.float32)
        return mean

    def _shift(self) -> None:
        """One step of the plan is done: what follows it begins the next one."""
        self._mean = np.concatenate((self._mean[1:], self._mean[-1:]))
        self._carried = np.concatenate((self._carried[:, 1:], self._carried[:, -1:]), axis=1)


def coloured(
    random: np.random.Generator, shape: tuple[int, int, int], exponent: float
) -> FloatArray:
    """Gaussian noise `[K, J, A]`, unit variance, with power ~ 1/f^exponent along J.

    Timmer & König (1995), as in iCEM: low frequencies move a robot farther than white noise.
    """
    count, steps, width = shape
    if exponent == 0.0 or steps < 2:
        return random.standard_normal(shape, dtype=np.float32)
    frequencies = np.fft.rfftfreq(steps)
    frequencies[0] = frequencies[1]
    scale = frequencies ** (-exponent / 2)
    parts = random.standard_normal((2, count, width, len(scale)))
    spectrum = (parts[0] + 1j * parts[1]) * scale
    spectrum[..., 0] = np.sqrt(2) * spectrum[..., 0].real
    if steps % 2 == 0:
        spectrum[..., -1] = np.sqrt(2) * spectrum[..., -1].real
    gain = 2 * (scale[1:] ** 2).sum() - (scale[-1] ** 2 if steps % 2 == 0 else 0.0)
    noise = np.fft.irfft(spectrum, n=steps, axis=-1) * steps / np.sqrt(2 * (gain + scale[0] ** 2))
    swapped: FloatArray = np.ascontiguousarray(noise.swapaxes(1, 2), dtype=np.float32)
    return swapped
