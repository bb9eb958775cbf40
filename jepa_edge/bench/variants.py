"""A variant is one precision of one bundle; its engines, fed clips."""

from __future__ import annotations

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, Tensors, WrongUseError
from jepa_edge.media.clips import Clip
from jepa_edge.media.features import silence
from jepa_edge.runtimes.engine import Engine, open_engine


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """What is measured side by side."""

    label: str
    bundle: Bundle
    precision: str

    @property
    def file_mib(self) -> float:
        """Size of its graph files: weights beside the graph belong to it."""
        graphs = self.bundle.manifest.precisions[self.precision].graphs.values()
        stems = {graph.path.rpartition(".")[0] for graph in graphs}
        files = [name for name in self.bundle.manifest.files if name.rpartition(".")[0] in stems]
        return sum(self.bundle.path(name).stat().st_size for name in files) / 2**20


class Chain:
    """A variant's engines, chained: clip → latents → the next steps, with its own latents."""

    def __init__(self, variant: Variant, threads: int) -> None:
        self.variant, self.facts = variant, variant.bundle.manifest.model
        self.senses = variant.bundle.manifest.senses
        names = variant.bundle.manifest.precisions[variant.precision].graphs
        self.engines: dict[str, Engine] = {
            name: open_engine(variant.bundle, name, variant.precision, threads=threads)
            for name in names
        }
        if "encoder" not in self.engines:
            raise WrongUseError(f"{variant.label} has no encoder; it has: {', '.join(names)}")

    @property
    def precision_used(self) -> str:
        """What the encoder's engine says it computes in."""
        return self.engines["encoder"].precision_used

    @property
    def hears(self) -> bool:
        """Whether it has both senses, so that taking the sound away leaves something."""
        return bool(self.senses.audio and self.senses.video)

    def encode(self, clip: Clip, *, mute: bool = False) -> Tensors:
        """The latents `[1, W*N, D]` and pooled `[1, W, P]` of a clip of one window."""
        return self.engines["encoder"].run(self.feed(clip, mute=mute))

    def foresee(self, latents: FloatArray) -> Tensors:
        """The future `[1, J*N, D]` and future_pooled `[1, J, P]`; nothing without a predictor."""
        predictor = self.engines.get("predictor")
        return predictor.run({"latents": latents}) if predictor else {}

    def feed(self, clip: Clip, *, mute: bool = False) -> Tensors:
        """The encoder's inputs for a clip; `mute` replaces its sound by digital silence."""
        tensors: Tensors = {}
        if clip.video is not None:
            tensors["video"] = clip.video[None]
        if clip.audio is not None:
            assert self.senses.audio
            quiet = silence(self.senses.audio, clip.audio.shape[-1])[None]
            tensors["audio"] = (quiet if mute else clip.audio)[None].astype(np.float32)
        return tensors

    def example(self, graph: str, clip: Clip) -> Tensors:
        """Inputs to time `graph` with: real where a clip gives them, else zeros of its shape."""
        encoded = self.encode(clip)
        real = self.feed(clip) | {"latents": encoded["latents"]}
        history = encoded["pooled"][:, -max(self.facts.history, 1) :]
        tensors = {}
        for spec in self.engines[graph].inputs:
            given = history if spec.name == "history" else real.get(spec.name)
            if given is not None and spec.name in ("video", "audio"):
                given = _last(given, spec.shape)
            if given is None or given.shape != spec.shape:
                given = spec.zeros()
            tensors[spec.name] = given
        return tensors


def variants_of(bundles: list[Bundle], precisions: list[str] | None = None) -> list[Variant]:
    """Every precision of every bundle. Raises `WrongUseError` if a wanted one is nowhere."""
    found = [
        Variant(label=_label(bundle, name, bundles), bundle=bundle, precision=name)
        for bundle in bundles
        for name in bundle.manifest.precisions
        if precisions is None or name in precisions
    ]
    have = {variant.precision for variant in found}
    if missing := [name for name in precisions or [] if name not in have]:
        known = sorted({name for bundle in bundles for name in bundle.manifest.precisions})
        raise WrongUseError(f"no bundle has {', '.join(missing)}; there is: {', '.join(known)}")
    return found


def _label(bundle: Bundle, precision: str, bundles: list[Bundle]) -> str:
    return precision if len(bundles) == 1 else f"{bundle.folder.name}:{precision}"


def _last(array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """The end of `array` along time, cut to `shape`: what a step graph sees of a window."""
    axis = 2 if array.ndim == len(shape) == 5 else -1
    frames = shape[axis]
    return np.ascontiguousarray(
        array.take(range(array.shape[axis] - frames, array.shape[axis]), axis)
    )
