"""A benchmark, one step a line."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import msgspec

from jepa_edge.bench.compare import Closeness, Trace, closeness, trace
from jepa_edge.bench.measure import Cost, costs_of
from jepa_edge.bench.probe import Probe, probe, read_recorded
from jepa_edge.bench.report import write_report
from jepa_edge.bundle import Bundle, opened
from jepa_edge.contract import Senses
from jepa_edge.media.clips import recordings_from
from jepa_edge.runtimes.sources import FileSource, StepData


class BenchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to compare, on which clips, and where the report goes."""

    bundle: Path
    clip: str = "builtin:heldout"
    probe_data: str = ""
    rounds: int = 60
    threads: int = 0
    report: Path | None = None


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where the numbers were measured."""

    processor: str
    cores: int
    load: float
    system: str
    python: str


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All numbers of a benchmark; `silent` is fp32 (or the first precision) without sound."""

    schema: str = "1"
    bundle: str
    target: str
    machine: Machine
    costs: dict[str, Cost]
    closeness: dict[str, dict[str, Closeness]]
    probes: dict[str, dict[str, Probe]]
    silent: dict[str, Probe]
    report: str | None = None


def bench(config: BenchConfig, progress: Callable[[str], None]) -> Result:
    """Measures every precision of the bundle; writes the report if one is wanted.

    Raises `InputError` or `CheckFailedError` for clips or a bundle that cannot be used.
    """
    with opened(config.bundle) as bundle:
        senses = bundle.manifest.senses
        progress("reading clips")
        recordings = _recordings(config.clip, senses)
        progress("latency, interleaved")
        flat = [step for steps in recordings for step in steps]
        costs = costs_of(bundle, flat, rounds=config.rounds, threads=config.threads)
        traces = {}
        for name in bundle.manifest.precisions:
            progress(f"accuracy of {name}")
            traces[name] = trace(bundle, name, recordings, config.threads)
        probes, silent = _probes(bundle, config, progress)
        result = Result(
            bundle=bundle.manifest.name,
            target=bundle.manifest.target,
            machine=machine(),
            costs=costs,
            closeness=closeness(traces),
            probes=probes,
            silent=silent,
        )
        return _with_report(config, result, traces)


def machine() -> Machine:
    """This machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((row.split(":")[1].strip() for row in lines if row.startswith("model name")), "")
    return Machine(
        processor=model or platform.machine(),
        cores=os.cpu_count() or 1,
        load=round(os.getloadavg()[0], 2),
        system=platform.system(),
        python=platform.python_version(),
    )


def _recordings(uri: str, senses: Senses) -> list[list[StepData]]:
    return [
        list(FileSource(recording, recording.samples, senses, fast=True).steps())
        for recording in recordings_from(uri, senses)
    ]


def _probes(
    bundle: Bundle, config: BenchConfig, progress: Callable[[str], None]
) -> tuple[dict[str, dict[str, Probe]], dict[str, Probe]]:
    """Per dataset: each precision's probe, and that of the first precision without sound."""
    probes: dict[str, dict[str, Probe]] = {}
    silent: dict[str, Probe] = {}
    names = list(bundle.manifest.precisions)
    for folder in filter(None, config.probe_data.split(",")):
        recorded = read_recorded(Path(folder), bundle.manifest.senses)
        probes[recorded.name] = {}
        for name in names:
            progress(f"state and surprise, {recorded.name}, {name}")
            found = probe(bundle, name, recorded, config.threads)
            probes[recorded.name][name] = found
        if bundle.manifest.senses.audio:
            progress(f"{recorded.name} without sound")
            quiet = read_recorded(Path(folder), bundle.manifest.senses, silent=True)
            silent[recorded.name] = probe(bundle, names[0], quiet, config.threads)
    return probes, silent


def _with_report(config: BenchConfig, result: Result, traces: dict[str, Trace]) -> Result:
    if config.report is None:
        return result
    config.report.mkdir(parents=True, exist_ok=True)
    page = config.report / "report.html"
    result = msgspec.structs.replace(result, report=str(page))
    write_report(page, msgspec.to_builtins(result), {n: t.pooled for n, t in traces.items()})
    numbers = config.report / "report.json"
    part = numbers.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    part.replace(numbers)
    return result
