"""Bench in a page: open → time → compare → probe → report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from jepa_edge.bench import machine
from jepa_edge.bench.compare import agreement, foresight, outputs_of, reference_of
from jepa_edge.bench.decisions import decider_of, decisions, situations
from jepa_edge.bench.episodes import Recorded
from jepa_edge.bench.facts import (
    Decisions,
    Fidelity,
    Foresight,
    Probe,
    Report,
    Surprise,
    VariantFacts,
)
from jepa_edge.bench.fidelity import fidelity
from jepa_edge.bench.measure import peak_rss_mib, speed
from jepa_edge.bench.probe import probe
from jepa_edge.bench.surprise import surprise
from jepa_edge.bench.variants import Chain, variants_of
from jepa_edge.bundle import opened
from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.media.clips import Clip, clips_from

Progress = Callable[[str], None]
FORESIGHT_STEPS = 40
FIDELITY_CLIPS = 60


class BenchConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be asked of a bench."""

    bundles: list[Path]
    precisions: list[str] | None = None
    clip: str = "builtin:heldout"
    clip_limit: int = 24
    probe_data: list[Path] = []
    probe_episodes: int = 30
    rounds: int = 30
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `WrongUseError` for numbers that measure nothing."""
        if self.rounds < 2:
            raise WrongUseError(f"--rounds {self.rounds}: at least 2 are needed for a spread")
        if self.clip_limit < 1:
            raise WrongUseError(f"--clip-limit {self.clip_limit}: at least 1 clip is needed")


def bench(config: BenchConfig, say: Progress = lambda _: None) -> Report:
    """Measures every precision of every bundle on this machine."""
    load = machine.load()
    with ExitStack() as stack:
        bundles = [stack.enter_context(opened(path)) for path in config.bundles]
        variants = variants_of(bundles, config.precisions)
        say(f"opening {', '.join(variant.label for variant in variants)}")
        chains = [Chain(variant, config.threads) for variant in variants]
        clips = _clips(config, chains)
        facts = _variants(config, chains, clips, say)
        probes, surprises = _probes(config, chains, say)
        return Report(
            measured="on this machine",
            machine=machine.machine(config.threads, load),
            rounds=config.rounds,
            clips=[clip.name for clip in clips],
            variants=facts,
            probes=probes,
            surprises=surprises,
            decisions=_decisions(config, chains, say),
            fidelity=_fidelity(config, chains, say),
            foresight=_foresight(config, chains[0]),
            notes=_notes(facts, chains, config),
        )


def _clips(config: BenchConfig, chains: list[Chain]) -> list[Clip]:
    """The clips all variants see; bundles of other geometry cannot be compared."""
    first = chains[0]
    for chain in chains:
        if (chain.senses, chain.facts.window) != (first.senses, first.facts.window):
            raise WrongUseError(
                f"{chain.variant.label} sees or hears another geometry than "
                f"{first.variant.label}; bench them one by one"
            )
    window = first.facts.window
    return clips_from(config.clip, first.senses, steps=window, limit=config.clip_limit)


def _variants(
    config: BenchConfig, chains: list[Chain], clips: list[Clip], say: Progress
) -> list[VariantFacts]:
    say(f"timing {config.rounds} rounds")
    timing = speed(chains, clips[0], config.rounds)
    say(f"comparing on {len(clips)} clips")
    outputs = {chain.variant.label: outputs_of(chain, clips) for chain in chains}
    facts = []
    for chain in chains:
        variant, manifest = chain.variant, chain.variant.bundle.manifest
        exact = reference_of(chain, chains)
        label = exact.variant.label if exact else None
        own = outputs[variant.label]
        say(f"memory of {variant.label}")
        facts.append(
            VariantFacts(
                label=variant.label,
                bundle=manifest.name,
                target=manifest.target,
                engine=manifest.engine,
                precision=variant.precision,
                precision_used=chain.precision_used,
                file_mib=round(variant.file_mib, 3),
                peak_rss_mib=peak_rss_mib(variant, config.threads),
                timing=timing[variant.label],
                reference=label,
                agreement={name: agreement(outputs[label][name], own[name]) for name in own}
                if label
                else {},
            )
        )
    return facts


def _probes(
    config: BenchConfig, chains: list[Chain], say: Progress
) -> tuple[list[Probe], list[Surprise]]:
    probes, surprises = [], []
    for folder in config.probe_data:
        recorded = Recorded(
            folder,
            chains[0].senses,
            window=chains[0].facts.window,
            limit=config.probe_episodes,
            seed=config.seed,
        )
        for chain in chains:
            say(f"probing {chain.variant.label} on {recorded.name}")
            probes.append(probe(chain, recorded))
            if found := surprise(chain, recorded):
                surprises.append(found)
    return probes, surprises


def _decisions(config: BenchConfig, chains: list[Chain], say: Progress) -> list[Decisions]:
    """Nothing without a rollout graph or without fp32 of the first bundle's checkpoint."""
    deciding = [chain for chain in chains if "rollout" in chain.engines]
    exact = reference_of(deciding[0], deciding) if deciding else None
    if exact is None:
        return []
    say(f"deciding with {len(deciding)} precisions")
    clips = situations(config.clip, decider_of(exact))
    return decisions(deciding, exact, clips, config.seed)


def _fidelity(config: BenchConfig, chains: list[Chain], say: Progress) -> list[Fidelity]:
    """Nothing without fp32 of the first bundle's checkpoint."""
    exact = reference_of(chains[0], chains)
    if exact is None:
        return []
    say(f"foreseeing with {len(chains)} precisions")
    clips = clips_from(
        config.clip, exact.senses, steps=exact.facts.window, stride=2, limit=FIDELITY_CLIPS
    )
    return fidelity(chains, exact, clips, config.seed)


def _foresight(config: BenchConfig, chain: Chain) -> Foresight | None:
    """The first recording of the clips, each window one step after the one before."""
    clips = clips_from(config.clip, chain.senses, steps=chain.facts.window, stride=1)
    recording = clips[0].name.partition("#")[0]
    same = [clip for clip in clips if clip.name.partition("#")[0] == recording]
    return foresight(chain, same[:FORESIGHT_STEPS])


def _notes(facts: list[VariantFacts], chains: list[Chain], config: BenchConfig) -> list[str]:
    notes = []
    if any(fact.reference is None for fact in facts):
        notes.append("no fp32 in the bundle: nothing to compare accuracy with")
    if any(fact.peak_rss_mib is None for fact in facts):
        notes.append("the process that measures memory failed for some variants")
    if not config.probe_data:
        notes.append("no --probe-data: what the latents know of a robot was not measured")
    if all("predictor" not in chain.engines for chain in chains):
        notes.append("no predictor graph: no surprise, no foresight")
    return notes


def checked(report: Report) -> Report:
    """`report`, through JSON and back against its schema. Raises `InputError` if it cannot."""
    try:
        return msgspec.json.decode(msgspec.json.encode(report), type=Report)
    except msgspec.MsgspecError as error:
        raise InputError(f"the report does not follow its schema: {error}") from error
