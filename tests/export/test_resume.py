"""An export of an imported model that is stopped, at any moment, goes on and gives the same."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jepa_edge.bundle import open_bundle
from jepa_edge.contract import CheckFailedError
from jepa_edge.export import imported
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.vjepa.config import ClipShape

transformers = pytest.importorskip("transformers", reason="it writes the checkpoint")
pytestmark = pytest.mark.filterwarnings("ignore")


def quiet(*_args):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=1, pred_hidden_size=32,
        pred_num_attention_heads=2, pred_num_hidden_layers=1, crop_size=32, frames_per_clip=4,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("vjepa2")
    transformers.VJEPA2Model(config).save_pretrained(path)
    return path


def config_for(folder, out, *precisions, target="generic-onnx"):
    return ExportConfig(
        model=str(folder),
        target=target,
        precisions=precisions,
        out=out,
        shape=ClipShape(frames=4),
    )


def content(bundle):
    """Everything in a bundle but where it came from and its name."""
    manifest = open_bundle(bundle).manifest
    return manifest.files, manifest.precisions


@pytest.mark.slow
def test_killed_between_graphs_it_redoes_none_that_was_finished(folder, tmp_path):
    whole = export(config_for(folder, tmp_path / "whole.jepa", "fp32"), quiet)
    out, part = tmp_path / "killed.jepa", tmp_path / ".killed.jepa.part"
    command = [sys.executable, "-m", "jepa_edge.export", "--model", str(folder), "--out", str(out)]
    command += ["--target", "generic-onnx", "--precision", "fp32", "--frames", "4", "--json"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (part / "fp32-encoder.json").is_file():
        time.sleep(0.02)  # polls a folder; how long it takes is of no matter
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not out.exists()
    assert not (part / "fp32-masked_predictor.json").exists(), "killed too late to show anything"
    first = (part / "finished" / "encoder.onnx").stat()
    last = subprocess.run(command, capture_output=True, check=True, text=True)
    assert json.loads(last.stdout)["bundle"] == str(out)
    kept = (out / "encoder.onnx").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    assert content(out) == content(Path(whole.bundle))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.jepa", "whole.jepa"]


def test_stopped_while_the_bundle_is_put_together_it_loses_nothing(folder, tmp_path, monkeypatch):
    config = config_for(folder, tmp_path / "a.jepa", "fp32")

    def stop(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(imported, "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            export(config, quiet)
    assert not config.out.exists()

    def again(*_args, **_named):
        raise AssertionError("a finished graph was made again")

    monkeypatch.setattr(imported, "write_measured", again)
    monkeypatch.setattr(imported, "write_onnx", again)
    export(config, quiet)
    assert set(open_bundle(config.out).manifest.precision("fp32").graphs) == {
        "encoder",
        "predictor",
        "masked_predictor",
    }
    assert [file.name for file in tmp_path.iterdir()] == ["a.jepa"]


def test_a_head_below_its_floor_stays_in_float_and_the_manifest_says_so(
    folder, tmp_path, monkeypatch
):
    written = imported.write_measured

    def refusing(job, target, bundle, *, keep_failing):
        made = written(job, target, bundle, keep_failing=True)
        if job.precision == "int8" and job.name in refused and not keep_failing:
            raise imported.FloorMissedError(job, ["predicted: mean cosine 0.90000, needs 0.99"])
        return made

    monkeypatch.setattr(imported, "write_measured", refusing)
    refused = {"masked_predictor"}
    done = export(config_for(folder, tmp_path / "a.jepa", "int8", target="x86-cpu"), quiet)
    bundle = open_bundle(tmp_path / "a.jepa")
    graphs = bundle.manifest.precision("int8").graphs
    assert {name: graph.precision for name, graph in graphs.items()} == {
        "encoder": None,
        "predictor": None,
        "masked_predictor": "bf16",
    }
    text = bundle.path(graphs["masked_predictor"].path).read_text()
    assert "FakeQuantize" not in text
    assert "i8" not in text
    assert "FakeQuantize" in bundle.path(graphs["predictor"].path).read_text()
    (line,) = [warning for warning in done.warnings if "masked_predictor" in warning]
    assert "kept in bf16" in line
    assert "0.90000, needs 0.99" in line
    refused = {"encoder"}
    with pytest.raises(CheckFailedError, match="encoder in int8 is not good enough"):
        export(config_for(folder, tmp_path / "b.jepa", "int8", target="x86-cpu"), quiet)
    assert not (tmp_path / "b.jepa").exists()
