"""What is asked of an export, and what it says of what it made."""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import msgspec

from jepa_edge.bundle import Graph, Hint, Manifest, ModelFacts, Precision, Provenance
from jepa_edge.contract import CacheType, Senses
from jepa_edge.devices.targets import Target
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.quantize.recipe import recipe_for

GOLDEN = "golden.npz"
VERSIONS = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "numpy")


class ExportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What to export, for what, and the clips to calibrate on and to be judged by."""

    model: str = "builtin:nano"
    target: str = "x86-cpu"
    precisions: tuple[str, ...] = ()
    out: Path | None = None
    calibration: str = "builtin:calibration"
    clips: str = "builtin:heldout"
    keep_failing: bool = False
    cache: CacheType | None = None
    batch: int = 0
    """Also graphs for up to so many robots at once, for a server; 0: none."""
    shape: ClipShape | None = None


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written, and what to warn of."""

    bundle: str
    manifest: Manifest
    warnings: list[str]
    peak_rss_mib: float | None = None


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What an export made, and of what.

    Attributes:
        facts: of the model.
        model_config: all of its configuration.
        senses: what it sees and hears.
        sha256: of the checkpoint.
        calibration: clips, with their hashes.
        heldout: clips, with their hashes.
        hints: by precision, what the engine computes in.
        graphs: by precision and name.
        batched: by precision and ``NAME@SIZE``.
    """

    facts: ModelFacts
    model_config: dict[str, Any]
    senses: Senses
    sha256: str
    calibration: list[str]
    heldout: list[str]
    hints: dict[str, Hint]
    graphs: dict[str, dict[str, Graph]] = {}
    batched: dict[str, dict[str, Graph]] = {}


def manifest_of(config: ExportConfig, target: Target, out: Path, made: Made) -> Manifest:
    """The manifest of a bundle at `out`."""
    return Manifest(
        name=out.name.removesuffix(".jepa"),
        target=target.name,
        engine=target.engine,
        model=made.facts,
        model_config=made.model_config,
        senses=made.senses,
        precisions={
            name: Precision(
                graphs=found,
                batched=made.batched.get(name, {}),
                inference_precision=made.hints[name],
                calibration=made.calibration if recipe_for(name, target.engine).needs_clips else [],
            )
            for name, found in made.graphs.items()
        },
        default_precision="int8" if "int8" in made.graphs else next(iter(made.graphs)),
        provenance=Provenance(
            source=config.model,
            source_sha256=made.sha256,
            versions={name: importlib.metadata.version(name) for name in VERSIONS}
            | {"python": platform.python_version()},
            parity_clips=made.heldout,
        ),
        golden=GOLDEN,
    )
