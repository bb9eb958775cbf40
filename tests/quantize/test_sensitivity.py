"""Injected outliers: plain int8 fails, SmoothQuant or mixed mends it, the layers are named."""

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.checkpoint import load_checkpoint, save_checkpoint
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import read_graph
from jepa_edge.quantize.pipeline import QuantizeConfig, quantize
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.quantize.sensitivity import Budget, sensitivity
from tests.quantize.outliers import CHANNELS, INJECTED, outliers

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def quiet(*_args):
    pass


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The trained nano model with outliers, its encoder's window halved to be quick."""
    folder = tmp_path_factory.mktemp("outliers")
    trained = load_checkpoint("builtin:nano").model
    config = msgspec.structs.replace(
        trained.config,
        predictor=None,
        action=None,
        window=4,
        encoder=msgspec.structs.replace(trained.config.encoder, attention="bidirectional"),
    )
    model = JEPA(config)
    weights = trained.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    save_checkpoint(outliers(model), folder / "outliers.safetensors")
    out = folder / "fp32.jepa"
    export(
        ExportConfig(model=str(folder / "outliers.safetensors"), precisions=("fp32",), out=out),
        quiet,
    )
    return out


def test_plain_int8_fails_the_gate(bundle, tmp_path):
    plain = tmp_path / "plain.toml"
    plain.write_text('weights = "int8"\nactivations = "int8"\nsmooth_alpha = -1.0\n')
    with pytest.raises(CheckFailedError, match="encoder in int8 is not good enough: latents"):
        quantize(QuantizeConfig(bundle=bundle, recipe=plain, out=tmp_path / "no.jepa"), quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["plain.toml"]


def test_mixed_passes_and_names_the_injected_layers(bundle, tmp_path):
    done = quantize(
        QuantizeConfig(
            bundle=bundle, precision="mixed", out=tmp_path / "m.jepa", report=tmp_path / "report"
        ),
        quiet,
    )
    graph = done.manifest.precisions["mixed"].graphs["encoder"]
    assert graph.parity["latents"].cosine_mean > 0.99
    assert graph.parity["latents"].cosine_p1 > 0.97
    (found,) = done.sensitivities
    loud = {one.layer for one in found.tensors if one.outlier_channels == len(CHANNELS)}
    assert loud == set(INJECTED)
    page = (tmp_path / "report" / "quantize.html").read_text()
    assert all(layer in page for layer in INJECTED)
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_without_smoothing_the_injected_layers_are_the_most_sensitive(bundle):
    opened = open_bundle(bundle)
    graph = read_graph(
        "openvino", opened.path(opened.manifest.precisions["fp32"].graphs["encoder"].path)
    )
    from jepa_edge.media.clips import clips_from

    clips = clips_from("builtin:calibration", opened.manifest.senses, steps=4, limit=4)
    feeds = [{"video": clip.video[None], "audio": clip.audio[None]} for clip in clips]
    recipe = msgspec.structs.replace(recipe_for("int8", "openvino"), smooth_alpha=-1.0)
    found = sensitivity("encoder", graph, feeds, recipe, Budget(), alphas=(-1.0,))
    assert {layer.name for layer in found.layers[:2]} == set(INJECTED)
    assert found.chosen.float_layers
    assert set(found.chosen.float_layers) <= set(INJECTED)
    drops = [point.drop for point in found.front]
    shares = [point.int8_share for point in found.front]
    assert drops == sorted(drops, reverse=True)
    assert shares == sorted(shares, reverse=True)
    everything = next(p for p in found.points if not p.float_layers)
    assert everything.drop > 10 * found.chosen.drop
    nothing = next(p for p in found.points if len(p.float_layers) == len(found.layers))
    assert nothing.drop == pytest.approx(0, abs=1e-5)
    assert np.isclose(nothing.int8_share, 0)


def test_smoothquant_alone_passes_too(bundle, tmp_path):
    out = tmp_path / "smooth.jepa"
    graph = quantize(QuantizeConfig(bundle=bundle, out=out), quiet).manifest.precisions["int8"]
    assert graph.graphs["encoder"].parity["latents"].cosine_p1 > 0.97
