"""The gate of models that act: a precision must choose the actions that fp32 chooses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from jepa_edge.bench.decisions import (
    Decider,
    Exact,
    exact_decisions,
    judged,
    missed_decisions,
    situations,
)
from jepa_edge.bench.facts import Decisions
from jepa_edge.bundle import Check, Graph, ModelFacts
from jepa_edge.contract import CheckFailedError, InputError, Senses, Tensors
from jepa_edge.devices.targets import Target
from jepa_edge.media.clips import Clip
from jepa_edge.quantize.compile import hint_for
from jepa_edge.quantize.recipe import Recipe
from jepa_edge.runtimes.engine import host_engine

ROLLOUT = "rollout"
NAME = "chooses fp32's actions"
CHOICES = 40
"""Situations: each is two windows to encode, for every precision."""


class Situations(msgspec.Struct, frozen=True, kw_only=True):
    """Held-out situations, and what fp32 decides in them.

    Attributes:
        clips: each from what is known to the goal.
        exact: what fp32 decides.
        reference: what decided it.
        missing: why there are none, where there are none.
    """

    clips: list[Clip]
    exact: list[Exact]
    reference: Decider
    missing: str = ""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One precision, written into the folder of a bundle that is being made."""

    precision: str
    graphs: Mapping[str, Graph]
    folder: Path
    target: Target
    recipe: Recipe


def situations_for(
    call: Callable[[str, Tensors], Tensors], facts: ModelFacts, senses: Senses, clips: str
) -> Situations | None:
    """What fp32, run by `call`, decides on held-out `clips`; None for models that do not act."""
    if not (facts.candidates and facts.rollout_horizon and facts.history):
        return None
    reference = Decider(label="fp32", call=call, facts=facts, senses=senses)
    try:
        found = situations(clips, reference, CHOICES)
    except InputError as error:
        return Situations(clips=[], exact=[], reference=reference, missing=str(error))
    return Situations(clips=found, exact=exact_decisions(reference, found, 0), reference=reference)


def with_decisions(
    made: Candidate, asked: Situations | None, *, keep_failing: bool
) -> dict[str, Graph]:
    """The precision's graphs, the rollout's with what was found of its decisions.

    Raises `CheckFailedError` when it decides otherwise than fp32 too often, unless `keep_failing`.
    """
    graphs = dict(made.graphs)
    if asked is None or not {ROLLOUT, "encoder"} <= set(graphs):
        return graphs
    check = _check(made, asked)
    if check.status == "failed" and not keep_failing:
        raise CheckFailedError(
            f"{made.precision} does not decide as fp32: {check.detail}. Nothing was written. Try "
            "--precision mixed or bf16, give more calibration clips, leave the precision out, or "
            "look at it with --keep-failing"
        )
    acting = graphs[ROLLOUT]
    checks = [one for one in acting.checks if one.name != NAME]
    graphs[ROLLOUT] = msgspec.structs.replace(acting, checks=[*checks, check])
    return graphs


def _check(made: Candidate, asked: Situations) -> Check:
    if asked.missing:
        return Check(name=NAME, status="not run here", detail=asked.missing)
    if made.target.engine != "openvino" and made.recipe.floats == "bf16":
        detail = "no CPU engine here runs bf16 ONNX"
        return Check(name=NAME, status="not run here", detail=detail)
    found = decided(made, asked)
    if problems := missed_decisions(found):
        return Check(name=NAME, status="failed", detail="; ".join(problems))
    same, clear = found.same_action, found.same_clear_action
    detail = (
        f"{same.share:.1%} of {found.count} decisions (95 %: {same.low:.1%} to {same.high:.1%}), "
        f"{clear.share:.1%} of the {found.clear_count} that are clear beyond bf16's rounding; "
        f"regret {found.regret_mean:.2%} of the candidates' range, Spearman "
        f"{found.spearman_mean:.4f}"
    )
    return Check(name=NAME, status="passed", detail=detail)


def decided(made: Candidate, asked: Situations) -> Decisions:
    """How the precision decides, in the engine that stands for the target's here."""
    engine, hint = made.target.engine, hint_for(made.target.engine, made.recipe)
    engines = {
        name: host_engine(
            engine, made.folder / graph.path, graph, graph.inference_precision or hint
        )
        for name, graph in made.graphs.items()
        if name in ("encoder", ROLLOUT)
    }
    decider = msgspec.structs.replace(
        asked.reference,
        label=made.precision,
        call=lambda name, given: engines[name].run(given),
    )
    return judged(decider, asked.exact, asked.clips, 0)
