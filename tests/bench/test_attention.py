"""What is drawn of attention is what the model computes."""

import json

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from jepa_edge.bench.attention import attention, weights_of
from jepa_edge.bundle import open_bundle
from jepa_edge.contract import WrongUseError
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.inspection import draw_attention
from jepa_edge.media.clips import clips_from
from jepa_edge.model.checkpoint import save_checkpoint
from jepa_edge.model.config import EncoderConfig, ModelConfig
from jepa_edge.model.jepa import JEPA

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = ModelConfig(
    name="micro",
    encoder=EncoderConfig(dim=32, depth=2, heads=2, attention="causal"),
    predictor=None,
    window=4,
    pooled_dim=16,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attention")
    torch.manual_seed(0)
    model = JEPA(MODEL).eval()
    save_checkpoint(model, folder / "micro.safetensors")
    config = ExportConfig(
        model=str(folder / "micro.safetensors"),
        target="x86-cpu",
        precisions=("fp32",),
        out=folder / "a.jepa",
    )
    export(config, lambda *_: None)
    return model, open_bundle(folder / "a.jepa")


@pytest.fixture(scope="module")
def clip():
    return clips_from("builtin:heldout", MODEL.senses, steps=MODEL.window, limit=1)[0]


def test_the_weights_are_those_of_the_model(exported, clip, monkeypatch):
    model, bundle = exported
    wanted, whole = [], functional.scaled_dot_product_attention

    def recording(q, k, v, attn_mask=None):
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        wanted.append((scores if attn_mask is None else scores + attn_mask).softmax(-1)[0])
        return whole(q, k, v, attn_mask=attn_mask)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recording)
    with torch.no_grad():
        model(torch.from_numpy(clip.video[None]), torch.from_numpy(clip.audio[None]))
    found = weights_of(bundle, clip)
    assert list(found) == ["encoder.blocks.0.attn", "encoder.blocks.1.attn"]
    for got, one in zip(found.values(), wanted, strict=False):
        np.testing.assert_allclose(got, one.numpy(), atol=1e-5)


def test_every_head_shares_out_all_of_its_attention(exported, clip):
    heads = attention(exported[1], clip).heads
    assert len(heads) == MODEL.encoder.depth * MODEL.encoder.heads
    for head in heads:
        assert np.sum(head.space) + head.heard == pytest.approx(1, abs=1e-4)
        assert np.sum(head.time) == pytest.approx(1, abs=1e-4)
        assert np.shape(head.space) == (6, 6)
        assert np.shape(head.sound) == (4, MODEL.window)


def test_a_page_and_its_numbers_are_written(exported, tmp_path, capsys):
    draw_attention(exported[1], "builtin:heldout", tmp_path, json=True)
    names = [path.rpartition("/")[2] for path in json.loads(capsys.readouterr().out)["written"]]
    assert names == ["attention.json", "attention.html"]
    page = (tmp_path / "attention.html").read_text()
    assert page.count("<svg") == MODEL.encoder.depth
    assert "http" not in page


def test_a_bundle_without_fp32_says_so(exported, clip):
    bundle = exported[1]
    manifest = bundle.manifest
    entry = {"int8": manifest.precisions["fp32"]}
    other = msgspec.structs.replace(
        bundle, manifest=msgspec.structs.replace(manifest, precisions=entry)
    )
    with pytest.raises(WrongUseError, match="no fp32 encoder"):
        weights_of(other, clip)
