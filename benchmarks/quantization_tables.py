"""Writes the tables of docs/quantization.md from the committed results; `--check` only looks."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from make_tables import lines_from, replaced, rewritten

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "quantization.md"


def quantizers(found: dict[str, Any]) -> str:
    """`quantizers.json`: the same calibration calls given to three quantizers."""
    by_name = {(way["model"], way["quantizer"]): way for way in found["ways"]}
    models = list(dict.fromkeys(model for model, _ in by_name))
    head = ["Quantizer", "p1 cosine", "relative L2", "ms", "with outliers: p1", "relative L2"]
    rows = []
    for name in dict.fromkeys(name for _, name in by_name if name != "fp32"):
        plain, hard = (by_name[model, name] for model in models)
        row = [name]
        for way in (plain, hard):
            parity = way["parity"]["latents"]
            row += [f"{parity['cosine_p1']:.4f}", f"{parity['relative_l2']:.3f}"]
        row.insert(3, f"{plain['timing']['min_ms']:.1f}")
        rows.append(row)
    return lines_from(head, rows)


def repair(found: list[dict[str, Any]]) -> str:
    """`repair.json`: what distillation mends."""
    outputs = [
        ("latents", "encoder latents"),
        ("pooled", "encoder pooled"),
        ("future", "predictor future"),
        ("future, pooled", "predictor future_pooled"),
    ]
    head = [
        "Steps",
        "Taught with",
        *(f"{title}, relative L2" for title, _ in outputs),
        "Same action",
        "Gate",
    ]
    rows = []
    for row in found:
        errors = (f"{row['relative_l2'][key]:.3f}" for _, key in outputs)
        interval = re.search(r"\(95 %: ([\d.]+)% to ([\d.]+)%\)", row["gate"]["detail"])
        assert interval is not None
        share = f"{100 * row['same_action']:.1f} % ({interval[1]} to {interval[2]})"
        status = row["gate"]["status"]
        rows.append([str(row["steps"]), row["taught_with"], *errors, share, status])
    return lines_from(head, rows)


def written(text: str) -> str:
    """`text` with each table between its markers."""
    for name, table in (("quantizers", quantizers), ("repair", repair)):
        generated = table(json.loads((HERE / f"{name}.json").read_bytes()))
        text = replaced(text, f"{generated}\n", name)
    return text


if __name__ == "__main__":
    sys.exit(rewritten(PAGE, written))
