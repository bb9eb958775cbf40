"""The report's pictures, as SVG text that stands inside the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jepa_edge.bench.compare import HISTOGRAM_EDGES
from jepa_edge.bench.facts import Foresight, Probe, Report
from jepa_edge.bench.tables import probe_columns
from jepa_edge.contract import MissingExtraError

COLOURS = ("#4878d0", "#ee854a", "#6acc64", "#d65f5f", "#956cb4", "#8c613c", "#dc7ec0", "#797979")
GREY = "#808080"
"""Reads on white and on black alike."""


def plots(report: Report) -> dict[str, str]:
    """SVG by title, only of what was measured. Raises `MissingExtraError` without matplotlib."""
    with drawing():
        drawn = {"Latency: median, bars span the middle half": _latency(report)}
        if any(variant.agreement for variant in report.variants):
            drawn["Accuracy against latency"] = _trade(report)
            drawn["Tokens by distance from fp32"] = _histogram(report)
        if report.foresight:
            drawn["Pooled latents over time"] = _foresight(report.foresight)
        for dataset in dict.fromkeys(found.dataset for found in report.probes):
            probes = [found for found in report.probes if found.dataset == dataset]
            drawn[f"What the latents know: {dataset}"] = _probe(probes)
    return drawn


@contextmanager
def drawing() -> Iterator[None]:
    """The house's look for figures made in the block. Raises `MissingExtraError`."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench") from error
    style: Any = {
        "text.color": GREY,
        "axes.labelcolor": GREY,
        "axes.edgecolor": GREY,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "jepa-edge",
        "font.family": "sans-serif",
    }
    with mpl.rc_context(style):
        yield


def new_figure(width: float = 7.0, height: float = 3.2) -> tuple[Any, Any]:
    """A figure of its own, outside of pyplot's global state (which needs closing)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Any) -> str:  # noqa: ANN401  (matplotlib has no stubs)
    """The figure as an `<svg>` element: no XML prologue, no metadata that names a site."""
    out = io.StringIO()
    empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(out, format="svg", transparent=True, metadata=empty)
    text = out.getvalue()
    # HTML knows the namespaces of SVG; without them the page names nothing outside of itself.
    noise = r"<metadata>.*?</metadata>|\s+xmlns(:xlink)?=\"[^\"]*\""
    return re.sub(noise, "", text[text.index("<svg") :], flags=re.DOTALL)


def _latency(report: Report) -> str:
    figure, axes = new_figure()
    graphs = list(dict.fromkeys(name for v in report.variants for name in v.timing))
    width = 0.8 / len(report.variants)
    for i, variant in enumerate(report.variants):
        having = [g for g in graphs if g in variant.timing]
        timing = [variant.timing[g] for g in having]
        medians = [t.median_ms for t in timing]
        spread = [
            [t.median_ms - t.p25_ms for t in timing],
            [t.p75_ms - t.median_ms for t in timing],
        ]
        places = [graphs.index(g) + (i + 0.5) * width - 0.4 for g in having]
        colour = COLOURS[i % len(COLOURS)]
        axes.bar(places, medians, width * 0.9, yerr=spread, color=colour, ecolor=GREY, capsize=2)
        axes.bar([0], [0], color=colour, label=variant.label)
    axes.set_xticks(range(len(graphs)), graphs)
    axes.set_ylabel("ms per call")
    axes.legend()
    return svg(figure)


def _trade(report: Report) -> str:
    figure, axes = new_figure()
    for i, variant in enumerate(report.variants):
        if "latents" not in variant.agreement or "encoder" not in variant.timing:
            continue
        parity = variant.agreement["latents"].parity
        place = (variant.timing["encoder"].median_ms, parity.relative_l2)
        axes.scatter(*place, s=60, color=COLOURS[i % len(COLOURS)])
        axes.annotate(variant.label, place, xytext=(7, 4), textcoords="offset points")
    axes.set_yscale("symlog", linthresh=1e-5)
    axes.set_xlabel("encoder, median ms")
    axes.set_ylabel("relative L2 error of the latents")
    axes.margins(0.2)
    return svg(figure)


def _histogram(report: Report) -> str:
    figure, axes = new_figure()
    shown = [v for v in report.variants if "latents" in v.agreement and v.label != v.reference]
    names = [f"< {edge:g}" for edge in HISTOGRAM_EDGES[1:-1]] + ["more"]
    width = 0.8 / max(len(shown), 1)
    for i, variant in enumerate(shown):
        counts = variant.agreement["latents"].cosine_histogram
        places = [k + (i + 0.5) * width - 0.4 for k in range(len(counts))]
        share = [100 * n / max(sum(counts), 1) for n in counts]
        colour = COLOURS[report.variants.index(variant) % len(COLOURS)]
        axes.bar(places, share, width * 0.9, color=colour, label=variant.label)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel("1 - cosine with fp32")
    axes.set_ylabel("% of the latents' tokens")
    if shown:
        axes.legend()
    return svg(figure)


def _foresight(found: Foresight) -> str:
    figure, (first, second) = _figure_rows()
    steps = range(1, len(found.actual) + 1)
    for k, axes in enumerate((first, second)):
        axes.plot(steps, [point[k] for point in found.actual], color=COLOURS[0], label="came")
        foreseen = [point[k] for point in found.predicted]
        axes.plot(steps, foreseen, "--", color=COLOURS[1], label="predicted one step before")
        axes.set_ylabel(f"component {k + 1}")
    second.set_xlabel("step")
    first.legend(ncols=2)
    return svg(figure)


def _figure_rows() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    return figure, figure.subplots(2, 1, sharex=True)


def _probe(probes: list[Probe]) -> str:
    """Bars below 0 are cut at -0.5: worse than the mean is all they say."""
    names = list(probes[0].r2_dense)
    figure, axes = new_figure(height=1.2 + 0.34 * len(names))
    bars = probe_columns(probes)
    height = 0.8 / len(bars)
    for i, (label, scores) in enumerate(bars):
        places = [k + (i + 0.5) * height - 0.4 for k in range(len(names))]
        values = [max(scores.get(name, 0.0), -0.5) for name in names]
        axes.barh(places, values, height * 0.9, color=COLOURS[i % len(COLOURS)], label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("R² on held-out episodes (1 exact, 0 no better than the mean)")
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.legend(loc="best")
    return svg(figure)
