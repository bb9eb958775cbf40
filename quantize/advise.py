"""Every precision a target runs, made and measured, and one verdict on which to ship."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from jepa_edge.bundle import Manifest, open_bundle, opened
from jepa_edge.devices.targets import target
from jepa_edge.quantize.pipeline import REFERENCE, QuantizeConfig, Quantized, quantize
from jepa_edge.quantize.recommend import Verdict, recommend
from jepa_edge.quantize.report import Findings, write_findings
from jepa_edge.quantize.sensitivity import Sensitivity


class Advised(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and what it rests on."""

    verdict: Verdict
    manifest: Manifest
    sensitivities: list[Sensitivity]
    warnings: list[str]


def advise(config: QuantizeConfig, progress: Callable[[str, int, int], None]) -> Advised:
    """Every precision that the bundle's target runs, measured side by side, and which to ship.

    Those that the bundle lacks are made in a temporary place; `config.precision` is not looked at.

    Raises as `quantize`, but for missed floors, which make a precision unfit.
    """
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder, opened(config.bundle) as given:
        manifest = given.manifest
        chosen = target(manifest.target)
        made: list[Quantized] = []
        current = given.folder
        for name in chosen.precisions:
            if name in manifest.precisions or name == REFERENCE:
                continue
            out = Path(folder) / f"{name}.jepa"
            step = msgspec.structs.replace(
                config, bundle=current, precision=name, out=out, keep_failing=True, report=None
            )
            made.append(quantize(step, progress))
            current = out
        whole = open_bundle(current)
        progress("measuring side by side", 0, 1)
        verdict = recommend(whole, chosen, config.clips)
        progress("measuring side by side", 1, 1)
        warnings = list(dict.fromkeys(warning for one in made for warning in one.warnings))
        found = [one for step_ in made for one in step_.sensitivities]
        trades = [one for step_ in made for one in step_.trades]
        named = msgspec.structs.replace(whole.manifest, name=manifest.name)
        if config.report:
            coverages = [one.coverage for one in made if one.coverage]
            write_findings(
                Findings(
                    manifest=named,
                    sensitivities=found,
                    trades=trades,
                    coverage=coverages[-1] if coverages else None,
                    verdict=verdict,
                    warnings=warnings,
                ),
                config.report,
            )
        return Advised(verdict=verdict, manifest=named, sensitivities=found, warnings=warnings)
