"""A self-contained HTML page: tables and plots, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from jepa_edge.contract import FloatArray, MissingExtraError

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;
padding:0 1rem;color:#1b1f24;background:#fff}table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;
border-bottom:1px solid #d0d7de;text-align:right}td:first-child,th:first-child{text-align:left}
img{max-width:100%;background:#fff;border-radius:6px}.note{color:#57606a}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}td,th{border-color:#30363d}
.note{color:#8b949e}}"""


def write_report(path: Path, result: dict[str, Any], pooled: dict[str, FloatArray]) -> None:
    """Writes the page for a benchmark's `result` and each precision's `pooled [S, P]` latents."""
    where = result["machine"]
    body = [
        f"<h1>{html.escape(result['bundle'])}: precisions compared</h1>",
        _note(where),
        "<h2>Cost</h2>",
        _table(*cost_rows(result)),
        _picture(_latency_plot(result), "Median latency with interquartile range"),
        "<h2>Closeness to fp32</h2>",
        _table(*closeness_rows(result)),
        _picture(_path_plot(pooled), "The pooled latent over time, first two principal axes"),
    ]
    if result["probes"]:
        body += ["<h2>What the latents are worth</h2>", _table(*probe_rows(result))]
        body += [
            _picture(_probe_plot(name, found, result["silent"].get(name)), f"{name}: state R²")
            for name, found in result["probes"].items()
        ]
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(result['bundle'])}"
    )
    page += f"</title><style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    part = path.with_suffix(".part")
    part.write_text(page)
    part.replace(path)


def _note(where: dict[str, Any]) -> str:
    return (
        f"<p class=note>Measured on {html.escape(where['processor'])}, {where['cores']} cores, "
        f"load {where['load']}. Latency is one step (encode and predict), interleaved over "
        "precisions: trust the ratios, they share the machine's noise.</p>"
    )


Rows = tuple[list[str], list[list[str]]]


def cost_rows(result: dict[str, Any]) -> Rows:
    """Heading and rows of the cost table, a row per precision."""
    first = next(iter(result["costs"].values()))["latency"]["median_ms"]
    head = [
        "precision",
        "median ms",
        "IQR",
        "p90",
        "p99",
        "speed-up",
        "MB",
        "memory MB",
        "computes in",
    ]
    rows = []
    for name, cost in result["costs"].items():
        times = cost["latency"]
        row = [name, *(f"{times[key]:.2f}" for key in ("median_ms", "iqr_ms", "p90_ms", "p99_ms"))]
        memory = "unknown" if cost["memory_mb"] is None else f"{cost['memory_mb']:.0f}"
        row += [f"{first / times['median_ms']:.2f}x", f"{cost['size_mb']:.1f}", memory]
        rows.append([*row, cost["precision_used"]])
    return head, rows


def closeness_rows(result: dict[str, Any]) -> Rows:
    """Heading and rows of the closeness table, a row per precision and output."""
    rows = [
        [name, output, f"{got['mean']:.5f}", f"{got['p1']:.5f}", f"{got['worst']:.5f}"]
        for name, outputs in result["closeness"].items()
        for output, got in outputs.items()
    ]
    return ["precision", "output", "mean cosine", "p1", "worst"], rows


def probe_rows(result: dict[str, Any]) -> Rows:
    """Heading and rows of the probe table, a row per world and precision."""
    rows = []
    for world, by_precision in result["probes"].items():
        for name, got in by_precision.items():
            numbers = f"{got['r2_mean']:.3f}", f"{got['surprise_auroc']:.3f}"
            rows.append([world, name, *numbers, str(got["episodes"])])
        if quiet := result["silent"].get(world):
            numbers = f"{quiet['r2_mean']:.3f}", f"{quiet['surprise_auroc']:.3f}"
            rows.append([world, "no sound", *numbers, str(quiet["episodes"])])
    return ["world", "precision", "state R² (mean)", "surprise AUROC", "episodes"], rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{top}</tr>{lines}</table>"


def _picture(png: bytes, title: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}"></figure>'


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "bench") from error
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:  # noqa: ANN401
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110)
    return out.getvalue()


def _latency_plot(result: dict[str, Any]) -> bytes:
    figure, axes = _figure()
    names = list(result["costs"])
    times = [result["costs"][name]["latency"] for name in names]
    spread = [t["iqr_ms"] / 2 for t in times]
    axes.barh(names, [t["median_ms"] for t in times], xerr=spread, color="#4c78a8")
    axes.invert_yaxis()
    axes.set_xlabel("ms per step, median and interquartile range")
    return _png(figure)


def _path_plot(pooled: dict[str, FloatArray]) -> bytes:
    figure, axes = _figure()
    first = next(iter(pooled.values()))
    centre = first.mean(0)
    _, _, axes_of = np.linalg.svd(first - centre, full_matrices=False)
    for name, found in pooled.items():
        flat = (found - centre) @ axes_of[:1].T
        axes.plot(flat[:, 0], label=name, linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("first principal axis")
    axes.legend()
    return _png(figure)


def _probe_plot(name: str, found: dict[str, Any], quiet: dict[str, Any] | None) -> bytes:
    figure, axes = _figure()
    groups = {**found, **({"no sound": quiet} if quiet else {})}
    variables = list(next(iter(found.values()))["r2"])
    place = np.arange(len(variables))
    for index, (label, got) in enumerate(groups.items()):
        heights = [max(got["r2"].get(v, 0.0), -0.5) for v in variables]
        axes.bar(place + index * 0.8 / len(groups), heights, 0.8 / len(groups), label=label)
    axes.set_xticks(place + 0.3, variables, rotation=40, ha="right")
    axes.set_ylabel("R² on held-out episodes")
    axes.set_title(name)
    axes.legend(fontsize=7)
    return _png(figure)
