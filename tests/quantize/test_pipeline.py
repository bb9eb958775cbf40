"""The quantize verb: a bundle's own fp32 graphs → int8, without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

from jepa_edge.bundle import open_bundle, pack
from jepa_edge.contract import CheckFailedError, Senses, VideoSpec, WrongUseError
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.checkpoint import save_checkpoint
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.pipeline import QuantizeConfig, quantize

MICRO = ModelConfig(
    name="micro",
    encoder=EncoderConfig(dim=32, depth=1, heads=2),
    predictor=PredictorConfig(dim=16, depth=1, heads=1),
    action=ActionConfig(dim=16, depth=1, heads=1, candidates=4),
    senses=Senses(video=VideoSpec(height=32, width=32)),
    window=4,
    pooled_dim=16,
)
pytestmark = pytest.mark.filterwarnings("ignore")


def quiet(*_args):
    pass


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "micro.safetensors"
    save_checkpoint(JEPA(MICRO), path)
    return str(path)


@pytest.fixture(scope="module")
def fp32(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("fp32") / "micro.jepa"
    export(ExportConfig(model=checkpoint, precisions=("fp32",), out=out), quiet)
    return out


def test_int8_is_added_without_torch_and_fp32_stays(fp32, tmp_path):
    out = tmp_path / "small.jepa"
    program = (
        "import sys\n"
        "for heavy in ('torch', 'onnx'): sys.modules[heavy] = None\n"
        "from jepa_edge.quantize.__main__ import main\n"
        f"sys.argv = ['quantize', '--bundle', {str(fp32)!r}, '--out', {str(out)!r}, '--json',"
        " '--keep-failing']\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["bundle"] == str(out)
    before, after = open_bundle(fp32), open_bundle(out)
    assert set(after.manifest.precisions) == {"fp32", "int8"}
    assert after.manifest.default_precision == "int8"
    assert after.manifest.precisions["int8"].calibration
    graphs = before.manifest.precisions["fp32"].graphs
    assert set(after.manifest.precisions["int8"].graphs) == set(graphs)
    for name, graph in graphs.items():
        kept = after.manifest.precisions["fp32"].graphs[name]
        assert kept.parity == graph.parity
        old, new = before.manifest.files[graph.path], after.manifest.files[kept.path]
        assert old == new
    small = after.path(after.manifest.precisions["int8"].graphs["encoder"].path)
    assert "FakeQuantize" in small.read_text()


def test_the_same_int8_as_export_makes(checkpoint, fp32, tmp_path):
    """One way to int8: from the checkpoint or from the bundle, the measurements agree."""
    whole = ExportConfig(
        model=checkpoint, precisions=("int8", "fp32"), out=tmp_path / "a.jepa", keep_failing=True
    )
    exported = export(whole, quiet).manifest
    config = QuantizeConfig(bundle=fp32, out=tmp_path / "b.jepa", keep_failing=True)
    added = quantize(config, quiet).manifest
    for name, graph in exported.precisions["int8"].graphs.items():
        for output, parity in graph.parity.items():
            other = added.precisions["int8"].graphs[name].parity[output]
            assert other.cosine_mean == pytest.approx(parity.cosine_mean, abs=2e-3)


def test_bf16_of_a_packed_bundle_is_made_again_and_again(fp32, tmp_path):
    packed = tmp_path / "micro.tar.zst"
    pack(open_bundle(fp32), packed)
    first = quantize(QuantizeConfig(bundle=packed, precision="bf16"), quiet)
    assert first.bundle == str(tmp_path / "micro-bf16.jepa")
    again = QuantizeConfig(bundle=Path(first.bundle), precision="bf16", out=tmp_path / "again.jepa")
    second = quantize(again, quiet).manifest
    assert second.precisions["bf16"].inference_precision == "bf16"
    assert second.files == open_bundle(Path(first.bundle)).manifest.files


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"precision": "fp32"}, "none of them"),
        ({"precision": "int3"}, "'int3' is none of them"),
        ({"calibration": "random:8"}, "never calibrated on random"),
    ],
)
def test_what_cannot_be_made_is_refused(fp32, tmp_path, changes, says):
    with pytest.raises(WrongUseError, match=says):
        quantize(QuantizeConfig(bundle=fp32, out=tmp_path / "no.jepa", **changes), quiet)
    assert list(tmp_path.iterdir()) == []


def test_without_fp32_graphs_it_says_how_to_get_them(checkpoint, tmp_path):
    out = tmp_path / "only16.jepa"
    export(ExportConfig(model=checkpoint, precisions=("fp16",), out=out), quiet)
    with pytest.raises(WrongUseError, match=r"no fp32 graphs .*--precision fp32,int8"):
        quantize(QuantizeConfig(bundle=out), quiet)


def test_fp16_onnx_is_made_from_fp32(checkpoint, tmp_path):
    out = tmp_path / "onnx.jepa"
    export(
        ExportConfig(model=checkpoint, target="generic-onnx", precisions=("fp32",), out=out), quiet
    )
    added = quantize(QuantizeConfig(bundle=out, precision="fp16"), quiet)
    graphs = added.manifest.precisions["fp16"].graphs
    assert all(p.cosine_mean > 0.9999 for g in graphs.values() for p in g.parity.values())
    folder = Path(added.bundle)
    size = {name: (folder / name / "encoder.onnx").stat().st_size for name in ("fp32", "fp16")}
    assert size["fp16"] < 0.75 * size["fp32"]


def test_a_missed_floor_writes_nothing(fp32, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_edge.runtimes.parity.FLOORS", {"int8": (1.1, 1.1)})
    with pytest.raises(CheckFailedError, match=r"in int8 .*needs 1\.1"):
        quantize(QuantizeConfig(bundle=fp32, out=tmp_path / "no.jepa"), quiet)
    assert list(tmp_path.iterdir()) == []


def test_mixed_looks_at_every_graph_that_may_be_int8_and_reports(fp32, tmp_path):
    """Outputs of a written graph have several names: the bundle's is the one that counts."""
    config = QuantizeConfig(
        bundle=fp32, precision="mixed", out=tmp_path / "m.jepa", report=tmp_path / "report"
    )
    config = msgspec.structs.replace(config, keep_failing=True, is_timed=True)
    done = quantize(config, quiet)
    graphs = list(done.manifest.precisions["mixed"].graphs)
    assert [*(one.graph for one in done.sensitivities), "rollout"] == graphs  # it stays in float
    assert all(one.layers and one.points for one in done.sensitivities)
    assert "what speed costs" in (tmp_path / "report" / "quantize.html").read_text()
    for timed, one in zip(done.trades, done.sensitivities, strict=True):
        exact, *others = timed.trades
        assert (exact.label, exact.int8_share) == ("fp32", 0.0)
        drops = [other.drop for other in others]
        assert exact.drop <= min(drops)  # a processor without bf16 computes it in fp32
        assert exact.drop < max(drops)
        (written,) = (other for other in others if other.is_chosen)
        assert written.int8_share == one.chosen.int8_share
        parity = done.manifest.precisions["mixed"].graphs[one.graph].parity.values()
        assert written.p1 == min(got.cosine_p1 for got in parity)
        drops = [other.drop for other in timed.front]
        assert drops == sorted(drops, reverse=True)
