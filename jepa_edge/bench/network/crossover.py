"""Which path is best: how fast a decision is on board, against what the link takes."""

from __future__ import annotations

import io
import itertools
import time

import matplotlib as mpl
import msgspec
import numpy as np

from jepa_edge.bench.network.facts import ModelTimes, NetworkReport, PathFacts
from jepa_edge.bench.network.link import Pipe, SimulatedWay
from jepa_edge.bench.network.profiles import profile
from jepa_edge.bench.network.timing import ANSWER, FRAMING
from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.wire import tensors_from_steps
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

SPEEDUPS = (1.5, 2, 4, 10, 40)
SERVERS = (1, 10, 50)
"""How many times as fast as the board servers are in the picture of best paths."""
LEAST, ENOUGH_MS = 3, 20_000
"""Decisions that are timed at the least, and after how long no more are."""
SHADES = ("#1a7f5a", "#4caf7d", "#9ccf9a", "#dbe7a6", "#f2d18b", "#e6e6e6")
COLOURS = {"edge": "#d1603d", "cloud": "#3b6fb6", "hybrid": "#6b4fa0"}


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """Median ms of one decision and of its first part, and the bytes of one step as JPEG."""

    encode_ms: float
    ms: float
    step_bytes: int


def round_trip_p95_ms(network: str, step_bytes: int, seed: int = 0, count: int = 1500) -> float:
    """95th percentile of a request with one step and its answer, each 0.2 s over the link, ms."""
    spec = profile(network)
    round_trip_s = (spec.up.delay_ms + spec.down.delay_ms) / 1e3
    up = Pipe(SimulatedWay(spec.up, 2 * seed), round_trip_s)
    down = Pipe(SimulatedWay(spec.down, 2 * seed + 1), round_trip_s)
    took = [
        down.arrival(up.arrival(now, step_bytes + FRAMING), ANSWER) - now
        for now in np.arange(count) * 0.2
    ]
    return round(float(np.percentile(took, 95)) * 1e3, 1)


def decision_ms(
    bundle: Bundle, precision: str | None, steps: list[StepData], threads: int
) -> Decided:
    """What one decision takes on this machine, now."""
    stream = Stream(bundle, precision, threads=threads)
    pilot = None
    if "rollout" in bundle.manifest.precision(precision).graphs:
        rollout = open_engine(bundle, "rollout", precision, threads=threads)
        goal = np.zeros(bundle.manifest.model.pooled_dim, np.float32)
        pilot = Pilot(Planner(rollout, PlannerConfig(), bundle.manifest.model), goal)
    encoding, took = [], []
    for step in steps:
        began = time.perf_counter()
        encoded = stream.encode(step)
        encoding.append((time.perf_counter() - began) * 1e3)
        if encoded and pilot:
            pilot.act(encoded[1], ready=stream.is_warm)
        elif encoded:
            stream.predict()
        if stream.is_warm:
            took.append((time.perf_counter() - began) * 1e3)
        if len(took) >= LEAST and sum(took) > ENOUGH_MS:
            break
    tensors = tensors_from_steps(steps[:1], bundle.manifest.senses, "jpeg")
    size = sum(
        sum(map(len, array.ravel())) if array.dtype == object else array.nbytes
        for array in tensors.values()
    )
    return Decided(
        encode_ms=round(float(np.median(encoding)), 2),
        ms=round(float(np.median(took)), 2),
        step_bytes=int(size),
    )


def speedup_needed(edge_ms: float, link_ms: float) -> float:
    """How much faster than the board a server must decide for the cloud to be as quick.

    ``edge / (edge - link)``; infinite where the link alone takes longer than the board.
    """
    return edge_ms / (edge_ms - link_ms) if edge_ms > link_ms else float("inf")


def best_path(model: ModelTimes, link_ms: float, speedup: float) -> tuple[str, float]:
    """Who decides sooner, and after how many ms: the board, or a server `speedup` times as fast.

    `link_ms` is a round trip with one step of this bundle; a tie stays on board.
    """
    cloud_ms = link_ms + model.decision_ms / speedup
    on_board = model.decision_ms <= cloud_ms
    return ("edge", model.decision_ms) if on_board else ("cloud", cloud_ms)


def plots(report: NetworkReport) -> dict[str, str]:
    """SVG pictures by title."""
    pictures = {}
    if report.paths:
        pictures["Age at actuation"] = _ages(report)
    if report.links and report.models:
        pictures["Best path: model size by link, for servers of different speed"] = _best(report)
        pictures["Crossover: from which speed of a server the cloud decides sooner"] = _crossover(
            report
        )
    if report.successes:
        pictures["Success"] = _success(report)
    return pictures


def _ages(report: NetworkReport) -> str:
    networks = list(dict.fromkeys(found.network for found in report.paths))
    paths = list(dict.fromkeys(found.path for found in report.paths))
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(paths)
    for index, path in enumerate(paths):
        for place, network in enumerate(networks):
            (found,) = [f for f in report.paths if (f.path, f.network) == (path, network)]
            at = place + (index - (len(paths) - 1) / 2) * width
            _age_bar(axes, at, width, found)
        axes.bar([0], [0], color=COLOURS[path], label=path)
    axes.axhline(report.budget_ms, color="#b00020", lw=1, ls="--")
    axes.text(len(networks) - 0.5, report.budget_ms, "budget", ha="right", va="bottom", size=8)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel("ms: bar p50, line to p99")
    figure.legend(ncols=3, frameon=False, loc="outside upper left")
    return _svg(figure)


def _age_bar(axes, at: float, width: float, found: PathFacts) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    if found.age is None:
        axes.text(at, 5, "none", ha="center", rotation=90, size=7)
        return
    axes.bar(at, found.age.p50_ms, width * 0.9, color=COLOURS[found.path])
    axes.plot([at, at], [found.age.p50_ms, found.age.p99_ms], color="#333", lw=1.2)
    axes.text(at, found.age.p99_ms, f"{found.missed:.0%}", ha="center", va="bottom", size=7)


def _best(report: NetworkReport) -> str:
    """A panel for each speed of a server, a row for each model, a column for each link."""
    links = sorted(report.links, key=report.links.__getitem__)
    models = sorted(report.models, key=lambda model: model.decision_ms)
    rows = 0.45 * len(models) + 0.9
    figure, panels = plt.subplots(
        len(SERVERS), 1, figsize=(9, rows * len(SERVERS) + 0.6), layout="constrained", sharex=True
    )
    for axes, speedup in zip(panels, SERVERS, strict=True):
        for row, model in enumerate(models):
            for column, link in enumerate(links):
                path, ms = best_path(model, report.links[link], speedup)
                late = ms > report.step_ms
                colour = COLOURS[path]
                axes.bar(column, 0.92, 0.95, row - 0.46, color=colour, alpha=0.25 if late else 0.9)
                said = f"{path} {ms:.0f} ms" + (" (late)" if late else "")
                axes.text(column, row, said, ha="center", va="center", size=7)
        names = [f"{m.name} {m.precision}\n{m.parameters / 1e6:.1f} M" for m in models]
        axes.set_yticks(range(len(models)), names, size=7)
        axes.set_title(f"a server {speedup:g} times as fast as this machine", size=8, loc="left")
    labels = [f"{link}\np95 {report.links[link]:.0f} ms" for link in links]
    panels[-1].set_xticks(range(len(links)), labels, size=8)
    return _svg(figure)


def _crossover(report: NetworkReport) -> str:
    names = sorted(report.links, key=report.links.__getitem__)
    times: FloatArray = np.geomspace(4, 2000, 120).astype(np.float32)
    grid = np.array(
        [[speedup_needed(float(t), report.links[name]) for name in names] for t in times]
    )
    figure, axes = plt.subplots(figsize=(9, 4.6), layout="constrained")
    edges = [1.0, *SPEEDUPS, 1e9]
    norm = BoundaryNorm(edges, len(SHADES))
    columns = np.arange(len(names) + 1) - 0.5
    rows = np.geomspace(4, 2000, 121)
    axes.pcolormesh(
        columns,
        rows,
        np.minimum(grid, 1e8),
        norm=norm,
        cmap=ListedColormap(SHADES),
        antialiased=False,
    )
    axes.set_yscale("log")
    axes.set_ylim(4, 2000)
    for place, name in enumerate(names):
        link_ms = report.links[name]
        if link_ms < 2000:
            axes.plot([place - 0.5, place + 0.5], [link_ms] * 2, color="#222", lw=1.5)
    for model in report.models:
        ms, label = model.decision_ms, f"{model.name} {model.precision}"
        axes.axhline(ms, color="#d1603d", lw=1, ls=":")
        axes.text(len(names) - 0.52, ms, f"{label}, {ms:.0f} ms ", ha="right", va="bottom", size=8)
    axes.axhline(report.step_ms, color="#b00020", lw=1, ls="--")
    axes.text(-0.48, report.step_ms, "one step", va="bottom", size=8, color="#b00020")
    axes.set_xticks(range(len(names)), [f"{n}\np95 {report.links[n]:.0f} ms" for n in names])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("one decision on board, ms")
    labels = [f"{a:g}x to {b:g}x" for a, b in itertools.pairwise(edges[:-1])]
    labels += [f"over {SPEEDUPS[-1]:g}x, or never: stay on board"]
    patches = [Patch(color=shade) for shade in SHADES]
    figure.legend(
        patches, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8,
        title="a server this much faster than the board decides sooner", title_fontsize=8,
    )  # fmt: skip
    return _svg(figure)


def _success(report: NetworkReport) -> str:
    ways = [(f.network, f.path) for f in report.successes]
    ways = list(dict.fromkeys(ways))
    precisions = list(dict.fromkeys(f.precision for f in report.successes))
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for index, precision in enumerate(precisions):
        for place, (network, path) in enumerate(ways):
            found = next(
                (
                    f
                    for f in report.successes
                    if (f.network, f.path, f.precision) == (network, path, precision)
                ),
                None,
            )
            if found is None:
                continue
            at = place + (index - (len(precisions) - 1) / 2) * 0.2
            axes.plot([at, at], [found.success.low, found.success.high], color=COLOURS[path], lw=1)
            axes.plot(at, found.success.share, "o" if index == 0 else "s", color=COLOURS[path])
    axes.set_xticks(range(len(ways)), [f"{path}\n{network}" for network, path in ways], rotation=60)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel(f"success in {report.world}, 95 %")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "jepa-edge"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
