"""A verdict: the precision to ship for a target, from what was measured, with the reasons."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from jepa_edge.bench.decisions import decider_of, decisions, missed_decisions, situations
from jepa_edge.bench.facts import Decisions, Fidelity
from jepa_edge.bench.fidelity import fidelity
from jepa_edge.bench.measure import speed
from jepa_edge.bench.variants import Chain, Variant
from jepa_edge.bundle import Bundle, EngineName
from jepa_edge.devices.targets import Target
from jepa_edge.media.clips import Clip, clips_from
from jepa_edge.runtimes.parity import missed

REFERENCE = "fp32"
WORTH = 1.1
"""How much faster than the more exact one a precision must be to be worth its error."""
EXACTNESS = ("fp32", "fp16", "bf16", "int8w", "fp8", "mixed", "int8", "int4w")
SPEED_ROUNDS = 20


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One precision: whether it may be shipped, and what it gains.

    Attributes:
        precision: its name.
        is_fit: holds every floor.
        speed_up: times fp32, over one encoder (or step) call and one rollout; None: not measured.
        file_mib: of its graphs.
        same_action: share of decisions that are fp32's.
        same_action_low: the lower end of its 95 % interval.
        spearman: of the candidates' energies.
        problems: what it misses.
    """

    precision: str
    is_fit: bool
    speed_up: float | None
    file_mib: float
    same_action: float | None
    same_action_low: float | None
    spearman: float | None
    problems: list[str]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to ship; empty `precision` when nothing is fit.

    Attributes:
        target: for which.
        precision: to ship.
        reasons: sentences.
        measured: where the speeds come from.
        candidates: all that were looked at.
        fidelity: neighbours and rollout errors of each.
    """

    target: str
    precision: str
    reasons: list[str]
    measured: str
    candidates: list[Candidate]
    fidelity: list[Fidelity] = []


def recommend(bundle: Bundle, target: Target, clips: str) -> Verdict:
    """Measures every precision of `bundle` side by side and says which one to ship.

    Args:
        bundle: with fp32 among its precisions; made with failing ones kept.
        target: whose bundle it is.
        clips: held-out clips.
    """
    on_board = target.engine != "tensorrt"
    chains = _chains(bundle, target)
    exact = chains[REFERENCE]
    facts = exact.facts
    seen = clips_from(clips, exact.senses, steps=facts.window, stride=2, limit=60)
    decided: dict[str, Decisions] = {}
    if "rollout" in exact.engines:
        choices = situations(clips, decider_of(exact))
        judged = decisions(list(chains.values()), exact, choices, 0)
        decided = {one.label: one for one in judged}
    speeds = _speeds(list(chains.values()), seen[0]) if on_board else {}
    candidates = [
        _candidate(bundle, name, decided.get(name), speeds.get(name))
        for name in EXACTNESS
        if name in bundle.manifest.precisions
    ]
    precision, reasons = _choice(candidates, target)
    measured = "times of single calls taken in turns on this machine"
    if not on_board:
        measured = (
            f"accuracy in ONNX Runtime on this machine; speed not run here: {target.name}'s plans "
            "are built and timed on the board (jepa-edge build, then jepa-edge bench there)"
        )
    return Verdict(
        target=target.name,
        precision=precision,
        reasons=reasons,
        measured=measured,
        candidates=candidates,
        fidelity=fidelity(list(chains.values()), exact, seen, 0),
    )


def _chains(bundle: Bundle, target: Target) -> dict[str, Chain]:
    """Every precision that runs here, by name; TensorRT's graphs run in ONNX Runtime."""
    engine: EngineName = "onnxruntime" if target.engine == "tensorrt" else target.engine
    here = msgspec.structs.replace(
        bundle, manifest=msgspec.structs.replace(bundle.manifest, engine=engine)
    )
    runs = [
        name
        for name in bundle.manifest.precisions
        if not (engine == "onnxruntime" and name == "bf16")
    ]
    return {
        name: Chain(Variant(label=name, bundle=here, precision=name), threads=0) for name in runs
    }


def _speeds(chains: list[Chain], clip: Clip) -> dict[str, float]:
    """Times fp32, by precision: of what one tick of a controller calls."""
    timing = speed(chains, clip, SPEED_ROUNDS)
    whole = {
        label: sum(
            one.median_ms
            for graph, one in graphs.items()
            if graph in ("step" if "step" in graphs else "encoder", "predictor", "rollout")
        )
        for label, graphs in timing.items()
    }
    return {label: whole[REFERENCE] / took for label, took in whole.items()}


def _candidate(
    bundle: Bundle, name: str, decided: Decisions | None, speed_up: float | None
) -> Candidate:
    problems = [
        f"{graph} {problem}"
        for graph, one in bundle.manifest.precisions[name].graphs.items()
        for problem in missed(one.parity, name)
        + [f"{check.name}: {check.detail}" for check in one.checks if check.status == "failed"]
    ]
    problems += missed_decisions(decided) if decided else []
    variant = Variant(label=name, bundle=bundle, precision=name)
    return Candidate(
        precision=name,
        is_fit=not problems,
        speed_up=None if speed_up is None else round(speed_up, 3),
        file_mib=round(variant.file_mib, 2),
        same_action=decided.same_action.share if decided else None,
        same_action_low=decided.same_action.low if decided else None,
        spearman=decided.spearman_mean if decided else None,
        problems=problems,
    )


def _choice(candidates: Sequence[Candidate], target: Target) -> tuple[str, list[str]]:
    """The most exact fit one, unless a coarser one is worth its error."""
    fit = [one for one in candidates if one.is_fit]
    unfit = [f"{one.precision} is out: {one.problems[0]}" for one in candidates if not one.is_fit]
    if not fit:
        return "", ["no precision holds its floors", *unfit]
    if all(one.speed_up is None for one in fit):
        halves = [one for one in fit if one.precision in ("fp16", "bf16")]
        chosen = (halves or fit)[0]
        why = [f"stay at {chosen.precision} until the board has measured a gain"]
        if target.int8_attention_tokens:
            why.append(
                f"TensorRT fuses int8 attention up to {target.int8_attention_tokens} tokens only: "
                "published int8 ViTs run at 0.5 to 1.3 times fp16"
            )
        return chosen.precision, [*why, *unfit]
    chosen = fit[0]
    reasons = []
    for one in fit[1:]:
        gain = (one.speed_up or 1.0) / (chosen.speed_up or 1.0)
        if gain >= WORTH:
            reasons = [f"{one.precision} is {gain:.2f} times as fast as {chosen.precision}"]
            chosen = one
    if chosen.same_action is not None:
        reasons.append(
            f"it takes fp32's action in {chosen.same_action:.1%} of the decisions "
            f"(95 %: from {chosen.same_action_low:.1%})"
        )
    passed_by = [
        f"{one.precision} is not worth its error: {one.speed_up:.2f} times fp32, "
        f"{chosen.precision} {chosen.speed_up:.2f}"
        for one in fit
        if EXACTNESS.index(one.precision) > EXACTNESS.index(chosen.precision)
        and one.speed_up is not None
        and chosen.speed_up is not None
    ]
    return chosen.precision, [*reasons, *passed_by, *unfit]
