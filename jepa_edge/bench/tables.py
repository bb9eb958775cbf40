"""The report as tables of text: one source for the console, the page and the README."""

from __future__ import annotations

import msgspec

from jepa_edge.bench.facts import Interval, Probe, Report, VariantFacts


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A titled table of text."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def grids(report: Report) -> list[Grid]:
    """Every table of the report that has rows."""
    found = [_overview(report), _timing(report), _agreement(report), *_probes(report)]
    found += [_surprise(report), _decisions(report), _fidelity(report)]
    return [grid for grid in found if grid.rows]


def _overview(report: Report) -> Grid:
    graphs = _graphs(report)
    return Grid(
        title="Precisions side by side",
        note=f"median ± half the IQR of {report.rounds} single calls, taken in turns; accuracy of "
        "the whole chain, each precision predicting from its own latents",
        head=[
            "precision",
            "computes in",
            *(f"{name} ms" for name in graphs),
            "latents cosine",
            "future cosine",
            "files MiB",
            "peak MiB",
        ],
        rows=[
            [
                variant.label,
                variant.precision_used,
                *(_speed(variant, name) for name in graphs),
                _cosine(variant, "latents"),
                _cosine(variant, "future"),
                f"{variant.file_mib:.2f}",
                "failed" if variant.peak_rss_mib is None else f"{variant.peak_rss_mib:.0f}",
            ]
            for variant in report.variants
        ],
    )


def _timing(report: Report) -> Grid:
    return Grid(
        title="Latency",
        note="milliseconds of single calls",
        head=["precision", "graph", "min", "median", "IQR", "p90", "p99", "calls"],
        rows=[
            [
                variant.label,
                graph,
                *(f"{t:.2f}" for t in (one.min_ms, one.median_ms, one.iqr_ms)),
                *(f"{t:.2f}" for t in (one.p90_ms, one.p99_ms)),
                str(one.count),
            ]
            for variant in report.variants
            for graph, one in variant.timing.items()
        ],
    )


def _agreement(report: Report) -> Grid:
    return Grid(
        title="Agreement with fp32",
        note="cosine token by token over all clips; relative L2 of the whole output",
        head=["precision", "output", "cosine mean", "p1", "worst", "relative L2"],
        rows=[
            [
                variant.label,
                name,
                f"{found.parity.cosine_mean:.6f}",
                f"{found.parity.cosine_p1:.6f}",
                f"{found.parity.cosine_worst:.6f}",
                f"{found.parity.relative_l2:.2e}",
            ]
            for variant in report.variants
            if variant.label != variant.reference
            for name, found in variant.agreement.items()
        ],
    )


def _probes(report: Report) -> list[Grid]:
    grids = []
    for dataset in dict.fromkeys(found.dataset for found in report.probes):
        probes = [found for found in report.probes if found.dataset == dataset]
        first = probes[0]
        columns = probe_columns(probes)
        grid = Grid(
            title=f"What the latents know: {dataset}",
            note="R² of a ridge regression from a step's latents, fitted on "
            f"{first.train_episodes} episodes, scored on {first.test_episodes} others "
            "(1 exact, 0 the mean)",
            head=["state", *(label for label, _ in columns)],
            rows=[
                [name, *(f"{scores[name]:.3f}" if name in scores else "-" for _, scores in columns)]
                for name in first.r2_dense
            ],
        )
        grids.append(grid)
    return grids


def probe_columns(probes: list[Probe]) -> list[tuple[str, dict[str, float]]]:
    """Titles and scores: dense for every precision, then the first one's ablations."""
    first = probes[0]
    columns = [(found.label, found.r2_dense) for found in probes]
    if first.r2_dense_silence is not None:
        columns.append((f"{first.label}, silence", first.r2_dense_silence))
    return [*columns, (f"{first.label}, pooled", first.r2_pooled)]


def _surprise(report: Report) -> Grid:
    return Grid(
        title="Surprise",
        note="AUROC of telling a cut to another episode from what really came next (0.5 is chance)",
        head=["precision", "dataset", "cuts", "predictor", "copy-last baseline"],
        rows=[
            [
                found.label,
                found.dataset,
                str(found.cuts),
                f"{found.auroc:.3f} ({found.auroc_low:.3f} to {found.auroc_high:.3f})",
                f"{found.auroc_copy_last:.3f}",
            ]
            for found in report.surprises
        ],
    )


def _decisions(report: Report) -> Grid:
    return Grid(
        title="Decisions",
        note="which of the candidate actions the planner likes best: as fp32 chooses, with 95 % "
        "intervals; clear: decisions that rounding fp32's latents to bf16 could not change; "
        "Spearman of the candidates' energies; regret by fp32's energies, of their whole range",
        head=[
            "precision",
            "decisions",
            "same action",
            "clear",
            "same where clear",
            *("Spearman mean", "p5", "regret mean", "p95"),
        ],
        rows=[
            [
                found.label,
                str(found.count),
                _share(found.same_action),
                str(found.clear_count),
                _share(found.same_clear_action),
                f"{found.spearman_mean:.4f}",
                f"{found.spearman_p5:.4f}",
                f"{found.regret_mean:.4f}",
                f"{found.regret_p95:.4f}",
            ]
            for found in report.decisions
        ],
    )


def _fidelity(report: Report) -> Grid:
    horizons = [one.steps for one in report.fidelity[0].horizons] if report.fidelity else []
    return Grid(
        title="Foresight against fp32",
        note="relative L2 of the latents so many steps ahead along the same actions, each "
        "precision from its own latents, with 95 % intervals over clips; nearest neighbour: "
        "held-out clips whose most similar clip is the one that fp32 finds",
        head=["precision", "clips", "same neighbour", *(f"{steps} steps" for steps in horizons)],
        rows=[
            [
                found.label,
                str(found.clips),
                _share(found.same_neighbour),
                *(f"{h.relative_l2:.4f} ({h.low:.4f} to {h.high:.4f})" for h in found.horizons),
            ]
            for found in report.fidelity
        ],
    )


def _share(found: Interval) -> str:
    return f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})"


def _graphs(report: Report) -> list[str]:
    return list(dict.fromkeys(name for variant in report.variants for name in variant.timing))


def _speed(variant: VariantFacts, graph: str) -> str:
    if graph not in variant.timing:
        return "-"
    timing = variant.timing[graph]
    return f"{timing.median_ms:.2f} ± {timing.iqr_ms / 2:.2f}"


def _cosine(variant: VariantFacts, output: str) -> str:
    if variant.label == variant.reference:
        return "reference"
    if output not in variant.agreement:
        return "-"
    return f"{variant.agreement[output].parity.cosine_mean:.5f}"
