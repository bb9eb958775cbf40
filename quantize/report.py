"""One page on a quantization: what to ship and why, which layers hurt, what was traded."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bench.page import page, table, write_whole
from jepa_edge.bench.plots import COLOURS, drawing, new_figure, svg
from jepa_edge.bench.tables import Grid
from jepa_edge.bundle import Manifest
from jepa_edge.quantize.calibration import Coverage
from jepa_edge.quantize.recommend import Verdict
from jepa_edge.quantize.sensitivity import Sensitivity
from jepa_edge.quantize.switchable import Tensor
from jepa_edge.quantize.trades import Trades
from jepa_edge.runtimes.parity import FLOORS

SHOWN = 24
"""Layers and tensors in a plot or table: the worst ones."""


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows; `quantize.json` is exactly this."""

    manifest: Manifest
    sensitivities: list[Sensitivity] = []
    trades: list[Trades] = []
    coverage: Coverage | None = None
    verdict: Verdict | None = None
    warnings: list[str] = []


def write_findings(found: Findings, folder: Path) -> list[Path]:
    """Writes `quantize.json` and `quantize.html` into `folder`, each whole or not at all."""
    json = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    html = html_from(found).encode()
    return write_whole(folder, {"quantize.json": json, "quantize.html": html})


def html_from(found: Findings) -> str:
    """The page: the verdict first, then accuracy, layers, and what it was calibrated on."""
    name = f"Quantization of {found.manifest.name} for {found.manifest.target}"
    body = [f"<h1>{escape(name)}</h1>"]
    if found.verdict:
        body += _verdict(found.verdict)
    body += [f'<p class="warn">{escape(warning)}</p>' for warning in found.warnings]
    body.append(table(_accuracy(found.manifest)))
    with drawing():
        for trades in found.trades:
            body += _trades(trades)
        for one in found.sensitivities:
            body += _sensitivity(one)
    if found.coverage:
        body.append(table(_coverage(found.coverage)))
    return page(name, body)


def _verdict(verdict: Verdict) -> list[str]:
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict.reasons)
    grid = Grid(
        title="Measured side by side",
        note=verdict.measured,
        head=["precision", "fit to ship", "times fp32", "same action", "Spearman", "why not"],
        rows=[
            [
                one.precision,
                "yes" if one.is_fit else "no",
                "not measured" if one.speed_up is None else f"{one.speed_up:.2f}",
                "-" if one.same_action is None else f"{one.same_action:.1%}",
                "-" if one.spearman is None else f"{one.spearman:.4f}",
                "; ".join(one.problems),
            ]
            for one in verdict.candidates
        ],
    )
    ship = f"Ship {verdict.precision}" if verdict.precision else "Ship none of these"
    return [f'<p class="verdict">{escape(ship)}</p><ul>{reasons}</ul>', table(grid)]


def _accuracy(manifest: Manifest) -> Grid:
    rows = []
    for precision, entry in manifest.precisions.items():
        mean, p1 = FLOORS.get(precision, (0.0, 0.0))
        for graph, one in entry.graphs.items():
            for output, got in one.parity.items():
                held = got.cosine_mean >= mean and got.cosine_p1 >= p1
                rows.append(
                    [
                        precision,
                        f"{graph} {output}",
                        f"{got.cosine_mean:.5f}",
                        f"{got.cosine_p1:.5f}",
                        f"{got.cosine_worst:.5f}",
                        f"{got.relative_l2:.2e}",
                        "ok" if held else f"below {mean} / {p1}",
                    ]
                )
    return Grid(
        title="Agreement with fp32 on held-out clips",
        note="cosine token by token: a good mean can hide a bad token",
        head=["precision", "output", "cosine mean", "p1", "worst", "relative L2", "floors"],
        rows=rows,
    )


def _sensitivity(found: Sensitivity) -> list[str]:
    tensors: dict[str, Tensor] = {}
    for one in found.tensors:
        if one.layer not in tensors or one.snr_plain_db < tensors[one.layer].snr_plain_db:
            tensors[one.layer] = one
    loud = {name for name, tensor in tensors.items() if tensor.outlier_channels}
    rows = []
    for place, layer in enumerate(found.layers):
        if place >= SHOWN and layer.name not in loud:
            continue
        tensor = tensors.get(layer.name)
        rows.append(
            [
                layer.name
                + (" (kept in float)" if layer.name in found.chosen.float_layers else ""),
                f"{layer.error:.2e}",
                f"{layer.restored:.2e}",
                "" if tensor is None else f"{tensor.outlier_ratio:.1f}",
                "" if tensor is None else str(tensor.outlier_channels),
                "" if tensor is None else f"{tensor.snr_plain_db:.1f} / {tensor.snr_db:.1f}",
            ]
        )
    grid = Grid(
        title=f"{found.graph}: which layers int8 hurts",
        note="error: relative L2 of the worst output with this layer alone in int8; restored: what "
        "leaving it alone in float mends; outliers: largest channel over the median one, and "
        "channels beyond 20 times it; signal to noise of the median channel without and with "
        f"SmoothQuant; {found.calls} calibration calls",
        head=["layer", "error", "restored", "outlier ratio", "channels", "SNR dB"],
        rows=rows,
    )
    return [table(grid), _bars(found), "<p></p>", _front(found)]


def _bars(found: Sensitivity) -> str:
    shown = found.layers[:SHOWN]
    figure, axes = new_figure(height=1.0 + 0.22 * len(shown))
    kept = set(found.chosen.float_layers)
    colours = [COLOURS[3] if one.name in kept else COLOURS[0] for one in shown]
    axes.barh([one.name for one in shown], [max(one.error, 1e-9) for one in shown], color=colours)
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("relative L2 with this layer alone in int8 (red: kept in float)")
    return svg(figure)


def _front(found: Sensitivity) -> str:
    figure, axes = new_figure()
    points: list[Any] = found.points
    axes.scatter(
        [100 * p.int8_share for p in points],
        [max(p.drop, 1e-9) for p in points],
        color=COLOURS[7],
        label="tried",
    )
    front = found.front
    axes.plot(
        [100 * p.int8_share for p in front],
        [max(p.drop, 1e-9) for p in front],
        "o-",
        color=COLOURS[0],
        label="best trades",
    )
    chosen = found.chosen
    axes.scatter(
        [100 * chosen.int8_share],
        [max(chosen.drop, 1e-9)],
        s=120,
        marker="*",
        color=COLOURS[3],
        label="chosen",
        zorder=3,
    )
    axes.set_yscale("log")
    axes.set_xlabel("% of multiply-adds in int8")
    axes.set_ylabel("drop: 1 - mean cosine")
    axes.legend()
    return svg(figure)


def _trades(found: Trades) -> list[str]:
    exact = found.trades[0].timing.median_ms
    grid = Grid(
        title=f"{found.graph}: what speed costs",
        note=f"each choice of layers made, compared on held-out clips and timed here in turns: "
        f"median ± half the IQR of {found.trades[0].timing.count} calls",
        head=["what", "% in int8", "ms", "times fp32", "drop", "p1"],
        rows=[
            [
                one.label + (" (written)" if one.is_chosen else ""),
                f"{one.int8_share:.0%}",
                f"{one.timing.median_ms:.2f} ± {one.timing.iqr_ms / 2:.2f}",
                f"{exact / one.timing.median_ms:.2f}",
                f"{one.drop:.2e}",
                f"{one.p1:.5f}",
            ]
            for one in found.trades
        ],
    )
    return [table(grid), _latency(found)]


def _latency(found: Trades) -> str:
    """The front of latency against accuracy."""
    figure, axes = new_figure()
    for trades, style, name in ((found.trades, "o", "tried"), (found.front, "-", "best trades")):
        xs = [one.timing.median_ms for one in trades]
        axes.plot(xs, [max(one.drop, 1e-7) for one in trades], style, color=COLOURS[0], label=name)
    by_time = sorted(found.trades, key=lambda one: one.timing.median_ms)
    for number, one in enumerate(by_time):
        colour = COLOURS[3] if one.is_chosen else COLOURS[7]
        at = (one.timing.median_ms, max(one.drop, 1e-7))
        away = (4, 4) if number % 2 == 0 else (4, -11)  # neighbours' labels do not cover each other
        axes.annotate(one.label, at, away, textcoords="offset points", color=colour)
    axes.set_yscale("log")
    axes.set_xlabel("ms of one call (median)")
    axes.set_ylabel("drop: 1 - mean cosine")
    axes.legend()
    return svg(figure)


def _coverage(found: Coverage) -> Grid:
    return Grid(
        title="What it was calibrated on",
        note=f"{found.clips} clips of {found.recordings} recordings, chosen of {found.pool}; a "
        "held-out clip outside of the range is one whose like was not calibrated on",
        head=["of a clip", "calibrated from", "to", "held-out clips inside"],
        rows=[
            [one.name, f"{one.low:.3f}", f"{one.high:.3f}", f"{one.inside:.0%}"]
            for one in found.ranges
        ],
    )
