"""A decoder that `jepa-edge viewer` trained: latents → pictures, for people to look at."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bundle import Manifest
from jepa_edge.contract import FloatArray, InputError, MissingExtraError, WrongUseError
from jepa_edge.media.features import Frames

FACTS, POOLED, PICTURES = "jepa_edge.viewer", "pooled", "pictures"
"""Where the file keeps its facts, and the names of its one input and output."""
ERRORS_ONLY = 3
CAVEAT = "decoded by a probe: not what the controller uses"


class ViewerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Whose latents it decodes: a model by name, pooled width and the checkpoint's SHA-256.

    ``error`` is its mean squared error on held-out recordings, where the mean picture has 1.
    """

    model: str
    pooled_dim: int
    checkpoint_sha256: str
    error: float


class Viewer:
    """One ONNX file, run by ONNX Runtime on one thread.

    Raises:
        InputError: no file at `path`, or none that `jepa-edge viewer` wrote.
        MissingExtraError: ONNX Runtime is not installed.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise MissingExtraError("ONNX Runtime", "onnxruntime") from error
        if not path.is_file():
            raise InputError(f"no viewer at {path}; jepa-edge viewer makes one")
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = 1  # the run needs the others
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            told = self._session.get_modelmeta().custom_metadata_map[FACTS]
            self.facts = msgspec.json.decode(told, type=ViewerFacts)
        except Exception as error:  # ORT raises a dozen private kinds
            raise InputError(f"{path} is no viewer that jepa-edge viewer wrote: {error}") from error
        self.path = path

    def refuse_other(self, manifest: Manifest) -> None:
        """Raises `WrongUseError` unless the latents of this bundle are those it was trained on."""
        facts, model = self.facts, manifest.model
        known = (facts.model, facts.pooled_dim, facts.checkpoint_sha256)
        source = manifest.provenance
        if known != (model.name, model.pooled_dim, source.source_sha256):
            raise WrongUseError(
                f"{self.path} decodes {_named(*known)}; the bundle is of "
                f"{_named(model.name, model.pooled_dim, source.source_sha256)}. Train one with: "
                f"jepa-edge viewer --model {source.source} --data RECORDINGS"
            )

    def pictures(self, latents: FloatArray) -> Frames:
        """What `latents [n, P]` show: pictures `[n, h, w, 3]`, uint8 RGB.

        Raises `InputError` for latents of another width, or that are not finite.
        """
        if latents.ndim != 2 or latents.shape[1] != self.facts.pooled_dim:
            raise InputError(
                f"{self.path} decodes latents [n, {self.facts.pooled_dim}], "
                f"not {list(latents.shape)}"
            )
        if not np.isfinite(latents).all():
            raise InputError("latents that are not finite show nothing")
        (decoded,) = self._session.run([PICTURES], {POOLED: latents.astype(np.float32)})
        pictures: Frames = np.rint(decoded.clip(0, 1) * 255).astype(np.uint8)
        return pictures


def open_viewer(path: Path | None, manifest: Manifest) -> Viewer | None:
    """The viewer at `path`, if it is of that bundle; None without a path. Raises as `Viewer`."""
    if path is None:
        return None
    viewer = Viewer(path)
    viewer.refuse_other(manifest)
    return viewer


def _named(model: str, width: int, sha256: str) -> str:
    return f"{model} (pooled width {width}, checkpoint {sha256[:12]})"
