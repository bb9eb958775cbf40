"""A Hugging Face folder goes in, a bundle comes out whose graphs equal `transformers`."""

import numpy as np
import pytest
import torch

from jepa_edge.bundle import open_bundle
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.parity import probabilities

transformers = pytest.importorskip("transformers", reason="the oracle comes with the dev extra")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(
        hidden_size=128,
        num_attention_heads=2,
        num_hidden_layers=2,
        pred_hidden_size=64,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
        num_pooler_layers=1,
        crop_size=32,
        frames_per_clip=4,
        num_labels=5,
    )
    path = tmp_path_factory.mktemp("vjepa2")
    transformers.VJEPA2ForVideoClassification(config).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("x86-cpu", "fp32"),
        pytest.param("generic-onnx", "fp16", marks=pytest.mark.slow),
        pytest.param("jetson", "int8", marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_every_graph_equals_transformers(folder, tmp_path, target, precision):
    config = ExportConfig(
        model=str(folder),
        target=target,
        precisions=(precision,),
        out=tmp_path / "a.jepa",
        shape=ClipShape(frames=4),
    )
    export(config, lambda *_: None)
    bundle = open_bundle(tmp_path / "a.jepa")
    graphs = bundle.manifest.precision(precision).graphs
    assert list(graphs) == ["encoder", "predictor", "masked_predictor", "classifier"]
    if bundle.manifest.engine == "tensorrt":
        checks = {check.name: check.status for check in graphs["masked_predictor"].checks}
        assert checks["TensorRT-RTX build, SM86"] in ("passed", "not run here")
        return
    model = transformers.VJEPA2ForVideoClassification.from_pretrained(folder).eval()
    floor = {"fp32": 1e-4, "fp16": 1e-2}[precision]
    clip = torch.randn(1, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    engine = open_engine(bundle, "encoder", precision)
    video = np.ascontiguousarray(clip.transpose(1, 2).numpy())
    latents = engine.run({"video": video})["latents"]
    theirs = model.vjepa2(clip, skip_predictor=True).last_hidden_state
    assert _relative(latents, theirs) < floor
    logits = open_engine(bundle, "classifier", precision).run({"latents": latents})["logits"]
    assert _relative(probabilities(logits), model(clip).logits.softmax(-1)) < floor
    masked = open_engine(bundle, "masked_predictor", precision)
    for seen, wanted in (([5, 0, 3], [1, 2, 4, 6]), ([7], [0])):
        given = {
            "context": np.ascontiguousarray(latents[:, seen]),
            "context_positions": np.array([seen]),
            "target_positions": np.array([wanted]),
        }
        out = model.vjepa2(
            clip, context_mask=[torch.tensor([seen])], target_mask=[torch.tensor([wanted])]
        )
        predicted = masked.run(given)["predicted"]
        assert _relative(predicted, out.predictor_output.last_hidden_state) < floor


def _relative(ours, theirs):
    return float(np.linalg.norm(ours - theirs.numpy()) / np.linalg.norm(theirs.numpy()))
