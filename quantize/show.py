"""A bundle's measurements as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from jepa_edge.bundle import Manifest
from jepa_edge.quantize.recommend import Verdict


def show_measured(manifest: Manifest, bundle: str) -> None:
    """Prints what was written, checked, and not run here."""
    console = Console()
    table = Table("precision", "graph", "output", "cosine mean", "p1", "worst", "relative L2")
    checks: dict[tuple[str, str], list[str]] = {}
    for listed, entry in manifest.precisions.items():
        for name, graph in entry.graphs.items():
            precision = f"{listed} ({graph.precision})" if graph.precision else listed
            for output, got in graph.parity.items():
                numbers = (got.cosine_mean, got.cosine_p1, got.cosine_worst, got.relative_l2)
                table.add_row(precision, name, output, *(f"{number:.5f}" for number in numbers))
            for check in graph.checks:
                checks.setdefault((check.status, check.name), []).append(check.detail)
    console.print(table)
    for (status, name), details in checks.items():
        said = f" ({details[-1]})" if details[-1] else ""
        console.print(f"{status}: {name}, {len(details)} graphs{said}", highlight=False)
    clips = len(manifest.provenance.parity_clips)
    console.print(f"compared with fp32 on {clips} held-out clips")
    console.print(f"wrote {bundle}", highlight=False)


def show_verdict(verdict: Verdict) -> None:
    """Prints what to ship, why, and every candidate's numbers."""
    console = Console()
    ship = f"ship {verdict.precision}" if verdict.precision else "ship none of these"
    console.print(f"[bold]{verdict.target}: {ship}[/]")
    for reason in verdict.reasons:
        console.print(f"- {reason}", highlight=False, markup=False)
    table = Table("precision", "fit", "times fp32", "MiB", "same action", "Spearman")
    for one in verdict.candidates:
        table.add_row(
            one.precision,
            "yes" if one.is_fit else "no",
            "not measured" if one.speed_up is None else f"{one.speed_up:.2f}",
            f"{one.file_mib:.2f}",
            "-" if one.same_action is None else f"{one.same_action:.1%}",
            "-" if one.spearman is None else f"{one.spearman:.4f}",
        )
    console.print(table)
    console.print(verdict.measured, highlight=False, markup=False)
