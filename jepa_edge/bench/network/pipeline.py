"""Bench of paths and networks in a page: open → time → measure → fly → report."""

from __future__ import annotations

from pathlib import Path

import msgspec

from jepa_edge.bench import machine
from jepa_edge.bench.network.crossover import decision_ms, round_trip_p95_ms
from jepa_edge.bench.network.facts import ModelTimes, NetworkReport, SuccessFacts
from jepa_edge.bench.network.flight import SCRIPT, FlightConfig, Flights
from jepa_edge.bench.network.measure import PathConfig, Progress, measured
from jepa_edge.bench.network.timing import TimingConfig
from jepa_edge.bundle import Bundle, opened
from jepa_edge.runtimes.sources import StepData, open_source

TIMED_STEPS = 40


class Flying(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which success to measure: none without a `world`."""

    world: str = ""
    level: str = ""
    precisions: tuple[str, ...] = ()
    episodes: int = 8
    steps: int = 40
    cloud_speedup: float = 1.0
    decision_ms: float = 0.0
    """What a decision is taken to take on board; 0: what it takes on this machine, now."""
    encode_share: float = 0.1
    """Of `decision_ms`, until the board's own latent is there."""
    logs: Path | None = None
    """Folder of finished flights."""


def bench_paths(
    config: PathConfig, flying: Flying, against: list[Path], progress: Progress
) -> NetworkReport:
    """Measures every path over every network; see `PathConfig` and `Flying`."""
    load = machine.load()
    with opened(config.bundle) as bundle:
        manifest, step_s = bundle.manifest, bundle.manifest.senses.step_s
        precision = config.precision or manifest.default_precision
        if precision == SCRIPT:
            precision = manifest.default_precision
        config = msgspec.structs.replace(
            config, precision=precision, bundle=bundle.folder, clip=_clip(config)
        )
        steps = _steps(bundle, config.clip)
        own = _timed(bundle, precision, steps, config.threads)
        models = [own]
        for path in against:
            with opened(path) as other:
                shown = _steps(other, config.clip)
                chosen = other.manifest.default_precision
                models.append(_timed(other, chosen, shown, config.threads))
        paths = measured(config, progress, step_s) if config.steps else []
        return NetworkReport(
            bundle=manifest.name,
            precision=precision,
            lab=config.lab,
            machine=machine.machine(config.threads, load),
            rounds=config.rounds,
            steps=config.steps,
            step_ms=step_s * 1e3,
            deadline_ms=config.deadline_ms,
            budget_ms=config.budget_ms,
            costs=config.costs,
            paths=paths,
            world=flying.world,
            successes=_flown(bundle, config, flying, steps, progress),
            links={name: round_trip_p95_ms(name, own.step_bytes) for name in config.networks},
            models=models,
            notes=_notes(flying),
        )


def _flown(
    bundle: Bundle, config: PathConfig, flying: Flying, steps: list[StepData], progress: Progress
) -> list[SuccessFacts]:
    found: list[SuccessFacts] = []
    if not flying.world:
        return found
    for precision in flying.precisions or (config.precision or "fp32",):
        flight = FlightConfig(
            world=flying.world,
            level=flying.level,
            precision=precision,
            episodes=flying.episodes,
            steps=flying.steps,
            timing=_timing(bundle, precision, config, flying, steps),
            measured=not flying.decision_ms,
            threads=config.threads,
            costs=config.costs,
        )
        log = flying.logs and flying.logs / f"flights-{precision}.jsonl"
        flights = Flights(bundle, flight, log)
        found += flights.fly(config.paths, config.networks, progress)
    return found


def _timing(
    bundle: Bundle, precision: str, config: PathConfig, flying: Flying, steps: list[StepData]
) -> TimingConfig:
    """What a decision takes in flights: as told, or as measured here."""
    edge_ms, encode_ms = flying.decision_ms, flying.decision_ms * flying.encode_share
    if not edge_ms:
        timed = config.precision if precision == SCRIPT else precision
        own = _timed(bundle, timed or "fp32", steps, config.threads)
        edge_ms, encode_ms = own.decision_ms, own.encode_ms
    return TimingConfig(
        edge_ms=edge_ms,
        encode_ms=encode_ms,
        cloud_ms=edge_ms / flying.cloud_speedup,
        deadline_ms=config.deadline_ms,
        budget_ms=config.budget_ms,
    )


def _timed(bundle: Bundle, precision: str, steps: list[StepData], threads: int) -> ModelTimes:
    manifest = bundle.manifest
    decided = decision_ms(bundle, precision, steps, threads)
    return ModelTimes(
        name=manifest.name,
        precision=precision,
        parameters=manifest.model.parameters,
        encode_ms=decided.encode_ms,
        decision_ms=decided.ms,
        step_bytes=decided.step_bytes,
    )


def _clip(config: PathConfig) -> str:
    """A file for `--camera`: the one given, or one that ships with the package."""
    if config.clip and not config.clip.startswith("builtin:"):
        return config.clip
    from importlib import resources

    shipped = resources.files("jepa_edge") / "assets" / "clips" / "forest-000.mp4"
    return str(shipped)


def _steps(bundle: Bundle, clip: str) -> list[StepData]:
    senses = bundle.manifest.senses
    mic = clip if senses.audio else "none"
    source = open_source(clip, mic, senses, fast=True, repeat=True)
    found = []
    for step in source.steps():
        found.append(step)
        if len(found) == TIMED_STEPS:
            break
    return found


def _notes(flying: Flying) -> list[str]:
    notes = [
        "energy: not measured here; this machine has no power sensor",
        "the server ran on the robot's own cores: its computing is no faster than the board's",
        "USD per hour: see `costs` in the JSON; its inputs are examples",
    ]
    if flying.world:
        taken = f"{flying.decision_ms:g} ms" if flying.decision_ms else "as long as measured here"
        notes.append(
            f"flights: a decision was taken to take {taken} on board, and servers to be "
            f"{flying.cloud_speedup:g} times as fast"
        )
    return notes
