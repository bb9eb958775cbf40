"""Does a precision decide the same: which candidate action a planner would take, against fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from jepa_edge.bench.facts import Decisions, Interval
from jepa_edge.bench.variants import Chain
from jepa_edge.bundle import ModelFacts
from jepa_edge.contract import FRAMES_PER_STEP, FloatArray, Senses, Tensors
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.runtimes.planner import Cost, PlannerConfig

Z_95 = 1.959964
CHOICES = 60
"""Situations at the most, each with `SETS` sets of candidates to choose from."""
SETS = 4
SAME_ACTION = 0.95
"""The least share of decisions that must be fp32's."""
SPEARMAN = 0.98
"""The least mean rank correlation of the candidates' energies with fp32's."""


class Decider(msgspec.Struct, frozen=True, kw_only=True):
    """What decides: the graphs of one precision.

    Attributes:
        label: its name.
        call: runs its graph of a name.
        facts: of the model, with a ``rollout`` graph.
        senses: what it sees and hears.
    """

    label: str
    call: Callable[[str, Tensors], Tensors]
    facts: ModelFacts
    senses: Senses

    @property
    def steps(self) -> int:
        """Length of the clips that it decides on: what it knows, and up to the goal."""
        return self._known + self.facts.rollout_horizon

    @property
    def _known(self) -> int:
        window, history = self.facts.window, self.facts.history
        return window if window >= history else history + window - 1

    def seen(self, clip: Clip) -> tuple[FloatArray, FloatArray]:
        """The history `[1, Hh, P]` at the start of a clip, and the goal `[P]`: its end."""
        window, history, known = self.facts.window, self.facts.history, self._known
        firsts = [0] if window >= history else range(history)
        seen = [self._pooled(clip, first) for first in firsts]
        past = np.concatenate([seen[0], *(one[:, -1:] for one in seen[1:])], axis=1)
        goal = self._pooled(clip, known + self.facts.rollout_horizon - window)[0, -1]
        return np.ascontiguousarray(past[:, -history:]), goal

    def _pooled(self, clip: Clip, first: int) -> FloatArray:
        window, tensors = self.facts.window, Tensors()
        for name, array, unit in (
            ("video", clip.video, FRAMES_PER_STEP),
            ("audio", clip.audio, self.senses.mel_frames_per_step),
        ):
            if array is not None:
                along = slice(first * unit, (first + window) * unit)
                part = array[:, along] if name == "video" else array[..., along]
                tensors[name] = np.ascontiguousarray(part)[None].astype(np.float32, copy=False)
        pooled: FloatArray = self.call("encoder", tensors)["pooled"]
        return pooled

    def energies(self, history: FloatArray, goal: FloatArray, actions: FloatArray) -> FloatArray:
        """`[K]`: what the planner minimizes, for each of its candidates `[K, J, A]`."""
        rolled = self.call("rollout", {"history": history, "actions": actions})["rollout"]
        return Cost(PlannerConfig(), self.facts)(rolled, goal, actions)


class Exact(msgspec.Struct, frozen=True, kw_only=True):
    """What fp32 decides in one situation.

    Attributes:
        energies: `[SETS, K]`.
        is_clear: of each set, whether its choice stands when history and goal are rounded to bf16:
            it leads the others by more than that rounding moves any of them.
    """

    energies: FloatArray
    is_clear: list[bool]


def decider_of(chain: Chain) -> Decider:
    """A chain's engines, deciding."""
    return Decider(
        label=chain.variant.label,
        call=lambda name, given: chain.engines[name].run(given),
        facts=chain.facts,
        senses=chain.senses,
    )


def situations(uri: str, decider: Decider, limit: int = CHOICES) -> list[Clip]:
    """Clips at `uri` to decide on, spread over what is there."""
    return clips_from(uri, decider.senses, steps=decider.steps, stride=1, limit=limit)


def exact_decisions(reference: Decider, clips: Sequence[Clip], seed: int) -> list[Exact]:
    """What `reference`, fp32, decides on `clips`, among seeded uniform candidates."""
    found = []
    for number, clip in enumerate(clips):
        history, goal = reference.seen(clip)
        energies, clear = [], []
        for actions in _candidates(reference.facts, seed, number):
            own = reference.energies(history, goal, actions)
            moved = reference.energies(_in_bf16(history), _in_bf16(goal), actions) - own
            best = int(np.argmin(own))
            lead = float(np.partition(own, 1)[1] - own[best])
            energies.append(own)
            clear.append(lead > float(np.abs(moved - moved[best]).max()))
        found.append(Exact(energies=np.stack(energies), is_clear=clear))
    return found


def judged(decider: Decider, exact: Sequence[Exact], clips: Sequence[Clip], seed: int) -> Decisions:
    """How `decider` chooses among the same candidates: with its own history, goal and rollout.

    Args:
        decider: to judge.
        exact: what `exact_decisions` found.
        clips: the same as there.
        seed: the same as there.
    """
    same, clear, ranks, regrets = [], [], [], []
    for number, (clip, theirs) in enumerate(zip(clips, exact, strict=True)):
        history, goal = decider.seen(clip)
        sets = _candidates(decider.facts, seed, number)
        for actions, energies, is_clear in zip(sets, theirs.energies, theirs.is_clear, strict=True):
            ours = decider.energies(history, goal, actions)
            same.append(int(np.argmin(ours)) == int(np.argmin(energies)))
            clear.append(is_clear)
            ranks.append(spearman(ours, energies))
            regrets.append(_regret(ours, energies))
    sure = [one for one, is_clear in zip(same, clear, strict=True) if is_clear]
    return Decisions(
        label=decider.label,
        count=len(same),
        same_action=wilson(sum(same), len(same)),
        clear_count=len(sure),
        same_clear_action=wilson(sum(sure), len(sure)),
        spearman_mean=round(float(np.mean(ranks)), 5),
        spearman_p5=round(float(np.percentile(ranks, 5)), 5),
        regret_mean=round(float(np.mean(regrets)), 5),
        regret_p95=round(float(np.percentile(regrets, 95)), 5),
    )


def decisions(
    chains: Sequence[Chain], reference: Chain, clips: Sequence[Clip], seed: int
) -> list[Decisions]:
    """For every chain, how it chooses among the same candidates as `reference`.

    Each decision: the latents at the end of one window, a goal (the latents `rollout_horizon`
    steps later), seeded candidate action sequences, and what the planner's cost says of each.
    Every chain encodes, rolls out and measures with its own latents.

    Args:
        chains: to judge, all with a ``rollout`` graph.
        reference: fp32, judged by itself too (all ones).
        clips: of `situations`.
        seed: of the candidates.
    """
    exact = exact_decisions(decider_of(reference), clips, seed)
    return [judged(decider_of(chain), exact, clips, seed) for chain in chains]


def missed_decisions(found: Decisions) -> list[str]:
    """What falls below the floors of a precision that acts, as sentences."""
    problems = []
    if found.same_action.share < SAME_ACTION:
        problems.append(
            f"same action as fp32 in {found.same_action.share:.1%} of {found.count} decisions "
            f"(95 %: {found.same_action.low:.1%} to {found.same_action.high:.1%}), needs "
            f"{SAME_ACTION:.0%}; its choices cost {found.regret_mean:.2%} of the candidates' range"
        )
    if found.spearman_mean < SPEARMAN:
        problems.append(f"Spearman of the energies {found.spearman_mean:.3f}, needs {SPEARMAN}")
    return problems


def wilson(successes: int, trials: int) -> Interval:
    """A share with its 95 % Wilson score interval (Wilson 1927); 0 trials tell nothing: [0, 1]."""
    if not trials:
        return Interval(share=0.0, low=0.0, high=1.0)
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * (share * (1 - share) / trials + z2 / (4 * trials**2)) ** 0.5
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(share=round(share, 5), low=round(low, 5), high=round(high, 5))


def spearman(a: FloatArray, b: FloatArray) -> float:
    """Spearman's rank correlation of `a [n]` and `b [n]` without ties; 1 for the same order."""
    ours, theirs = (np.argsort(np.argsort(values)).astype(np.float64) for values in (a, b))
    return float(np.corrcoef(ours, theirs)[0, 1])


def _candidates(facts: ModelFacts, seed: int, situation: int) -> list[FloatArray]:
    """`SETS` sets of candidates `[K, J, A]`."""
    shape = (SETS, facts.candidates, facts.rollout_horizon, facts.action_dim)
    drawn = np.random.default_rng((seed, situation)).uniform(-1, 1, shape)
    return list(drawn.astype(np.float32))


def _in_bf16(array: FloatArray) -> FloatArray:
    """Rounded to 8 bits of mantissa, to nearest even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    kept = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    rounded: FloatArray = kept.view(np.float32)
    return rounded


def _regret(ours: FloatArray, exact: FloatArray) -> float:
    """What our choice costs by the exact energies, as a share of their whole range."""
    spread = float(exact.max() - exact.min())
    lost = float(exact[int(np.argmin(ours))] - exact.min())
    return lost / spread if spread > 0 else 0.0
