"""A viewer knows whose latents it decodes, and decodes no others."""

import msgspec
import numpy as np
import onnx
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.runtimes.viewer import Viewer, open_viewer


def test_it_decodes_any_number_of_latents_of_its_width(micro_viewer):
    viewer = Viewer(micro_viewer)
    latents = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    together = viewer.pictures(latents)
    assert (together.shape, together.dtype) == ((5, 16, 24, 3), np.uint8)
    assert len(np.unique(together)) > 50
    np.testing.assert_array_equal(together[3], viewer.pictures(latents[3:4])[0])
    with pytest.raises(InputError, match=r"decodes latents \[n, 8\], not \[5, 9\]"):
        viewer.pictures(np.zeros((5, 9), np.float32))
    with pytest.raises(InputError, match="not finite"):
        viewer.pictures(np.full((1, 8), np.nan, np.float32))


@pytest.mark.parametrize("change", ["name", "width", "checkpoint"])
def test_the_latents_of_another_model_are_refused(micro_bundle, micro_viewer, change):
    manifest, replace = open_bundle(micro_bundle).manifest, msgspec.structs.replace
    assert open_viewer(micro_viewer, manifest).facts.model == "micro"
    other = {
        "name": replace(manifest, model=replace(manifest.model, name="macro")),
        "width": replace(manifest, model=replace(manifest.model, pooled_dim=9)),
        "checkpoint": replace(
            manifest, provenance=replace(manifest.provenance, source_sha256="1" * 64)
        ),
    }[change]
    with pytest.raises(WrongUseError, match="Train one with: jepa-edge viewer --model tests"):
        open_viewer(micro_viewer, other)


def test_what_is_no_viewer_is_refused(micro_bundle, micro_viewer, tmp_path):
    with pytest.raises(InputError, match="no viewer at"):
        Viewer(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("pictures")
    with pytest.raises(InputError, match="is no viewer"):
        Viewer(tmp_path / "text.onnx")
    with pytest.raises(InputError, match="is no viewer"):
        Viewer(micro_bundle / "fp32" / "encoder.onnx")
    graph = onnx.load(micro_viewer)
    onnx.helper.set_model_props(graph, {"jepa_edge.viewer": '{"model": "micro"}'})
    onnx.save(graph, tmp_path / "less.onnx")
    with pytest.raises(InputError, match="is no viewer.*pooled_dim"):
        Viewer(tmp_path / "less.onnx")
