"""Imported V-JEPA 2 folders against `transformers`, and every way a folder can be broken."""

import json
import os
import struct
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.vjepa.activations import ACTIVATIONS
from jepa_edge.model.vjepa.config import ClipShape

transformers = pytest.importorskip("transformers", reason="the oracle comes with the dev extra")
TOLERANCE = 1e-5
SMALL = {
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "pred_hidden_size": 48,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 2,
    "crop_size": 32,
    "frames_per_clip": 4,
    "initializer_range": 0.15,
}


def made(folder, *, classify=0, **changes):
    """A random model of `transformers`, saved; every parameter differs from its default."""
    torch.manual_seed(0)
    config = transformers.VJEPA2Config(**(SMALL | changes))
    if classify:
        config.num_labels = classify
        model = transformers.VJEPA2ForVideoClassification(config).eval()
    else:
        model = transformers.VJEPA2Model(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "tokens" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def video(model, frames, height, width, batch=2):
    random = torch.Generator().manual_seed(1)
    return torch.randn(batch, frames, model.config.in_chans, height, width, generator=random)


@torch.no_grad()
def assert_same(folder, model, frames, height, width):
    """Latents, masked predictions and class scores of both, on the same random clip."""
    ours = load_checkpoint(str(folder), ClipShape(frames=frames, height=height, width=width)).model
    clip = video(model, frames, height, width)
    base = getattr(model, "vjepa2", model)
    count = base(clip, skip_predictor=True).last_hidden_state.shape[1]
    shuffled = torch.stack([torch.randperm(count) for _ in range(2)])
    seen, wanted = shuffled[:, : max(count // 3, 1)], shuffled[:, -max(count // 4, 1) :]
    theirs = base(clip, context_mask=[seen], target_mask=[wanted])
    latents, pooled = ours(clip.transpose(1, 2))
    assert pooled.shape == (2, max(frames // ours.config.tubelet, 1), latents.shape[-1])
    assert relative(latents, theirs.last_hidden_state) < TOLERANCE
    context = torch.take_along_dim(latents, seen[..., None], 1)
    predicted = ours.predict_masked(context, seen, wanted)
    assert relative(predicted, theirs.predictor_output.last_hidden_state) < TOLERANCE
    if hasattr(model, "classifier"):
        assert relative(ours.classify(latents), model(clip).logits) < TOLERANCE


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frames_per_clip": 2},
        {"frames_per_clip": 64, "crop_size": 16},
        {"hidden_size": 160, "num_attention_heads": 2, "mlp_ratio": 48 / 11},
        {"qkv_bias": False, "pred_mlp_ratio": 2.3, "layer_norm_eps": 1e-3},
        {"pred_num_mask_tokens": 1, "crop_size": 40, "patch_size": 8},
        {"hidden_size": 66, "num_attention_heads": 2, "crop_size": 50},
        {"hidden_size": 48, "num_attention_heads": 16, "pred_num_attention_heads": 3},
        {"tubelet_size": 4, "frames_per_clip": 8, "num_hidden_layers": 1},
        {"tubelet_size": 1, "frames_per_clip": 3, "pred_num_hidden_layers": 0},
        {"pred_zero_init_mask_tokens": False, "drop_path_rate": 0.2, "attention_dropout": 0.1},
    ],
)
def test_equals_transformers(tmp_path, changes):
    model = made(tmp_path, **changes)
    config = model.config
    assert_same(tmp_path, model, config.frames_per_clip, config.crop_size, config.crop_size)


CONFIGURATIONS = st.fixed_dictionaries(
    {
        "patch_size": st.sampled_from((4, 8, 14, 16)),
        "grid": st.sampled_from((1, 2, 3, 5)),
        "rest": st.integers(0, 1),
        "num_attention_heads": st.integers(1, 4),
        "head_dim": st.sampled_from((7, 10, 16, 26, 32, 64, 80, 88)),
        "num_hidden_layers": st.integers(1, 3),
        "mlp_ratio": st.sampled_from((4.0, 2.5, 48 / 11, 1)),
        "qkv_bias": st.booleans(),
        "layer_norm_eps": st.sampled_from((1e-6, 1e-2)),
        "pred_num_attention_heads": st.integers(1, 4),
        "pred_head_dim": st.sampled_from((6, 12, 16, 33)),
        "pred_num_hidden_layers": st.integers(0, 2),
        "pred_mlp_ratio": st.sampled_from((4.0, 3.3)),
        "pred_num_mask_tokens": st.sampled_from((1, 2, 10)),
        "tubelet_size": st.sampled_from((2, 1, 4)),
        "steps": st.sampled_from((1, 2, 3, 5)),
        "classify": st.sampled_from((0, 3)),
        "num_pooler_layers": st.integers(0, 3),
    }
)


@settings(max_examples=25, deadline=None)
@given(drawn=CONFIGURATIONS)
def test_any_configuration_equals_transformers(drawn):
    size = drawn["patch_size"] * drawn.pop("grid") + drawn.pop("rest")
    frames = drawn["tubelet_size"] * drawn.pop("steps")
    changes = drawn | {
        "hidden_size": drawn["num_attention_heads"] * drawn.pop("head_dim"),
        "pred_hidden_size": drawn["pred_num_attention_heads"] * drawn.pop("pred_head_dim"),
        "crop_size": size,
        "frames_per_clip": frames,
        "initializer_range": 0.05,  # with larger ones, rounding alone comes to 1e-5 in wide models
    }
    with TemporaryDirectory() as folder:
        assert_same(folder, made(folder, **changes), frames, size, size)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_equals_transformers(tmp_path, name):
    model = made(tmp_path, hidden_act=name, num_hidden_layers=1, pred_num_hidden_layers=1)
    assert_same(tmp_path, model, 4, 32, 32)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_classifier_equals_transformers(tmp_path, layers):
    model = made(tmp_path, classify=7, num_pooler_layers=layers, mlp_ratio=2.0)
    assert_same(tmp_path, model, 4, 32, 32)
    labels = {number: f"thing {number}" for number in range(7)}
    model.config.id2label = labels
    model.config.save_pretrained(tmp_path)
    ours = load_checkpoint(str(tmp_path)).model
    assert ours.config.classifier.labels == list(labels.values())


def test_oblong_frames_have_the_positions_of_the_paper(tmp_path, monkeypatch):
    """`transformers` reads any grid as a square one; here its positions are set right."""
    model = made(tmp_path)
    rows, columns = 2, 5

    def positions(self, x, masks=None):
        ids = torch.arange(x.size(1)) if masks is None else masks[:, None]
        return ids // (rows * columns), ids // columns % rows, ids % columns

    with pytest.raises(AssertionError):
        assert_same(tmp_path, model, 4, 16 * rows, 16 * columns)
    modeling = transformers.models.vjepa2.modeling_vjepa2
    monkeypatch.setattr(modeling.VJEPA2RopeAttention, "get_position_ids", positions)
    assert_same(tmp_path, model, 4, 16 * rows, 16 * columns)


@torch.no_grad()
def test_a_single_frame_is_shown_twice(tmp_path):
    model = made(tmp_path)
    ours = load_checkpoint(str(tmp_path)).model
    clip = video(model, 1, 32, 32)
    latents, _ = ours(clip.transpose(1, 2))
    assert relative(latents, model(clip, skip_predictor=True).last_hidden_state) < TOLERANCE


@torch.no_grad()
def test_half_precision_shards_and_pickles_load_alike(tmp_path):
    model = made(tmp_path / "whole").half()
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    (tmp_path / "pickle").mkdir()
    torch.save({n: w.half() for n, w in weights.items()}, tmp_path / "pickle/pytorch_model.bin")
    (tmp_path / "whole" / "config.json").rename(tmp_path / "pickle" / "config.json")
    loaded = [load_checkpoint(str(tmp_path / kind)).model for kind in ("shards", "pickle")]
    clip = video(model, 4, 32, 32).transpose(1, 2)
    assert torch.equal(loaded[0](clip)[0], loaded[1](clip)[0])
    assert loaded[0](clip)[0].dtype == torch.float32


def test_frames_default_to_a_clip_that_an_edge_can_bear(tmp_path):
    made(tmp_path, frames_per_clip=64)
    assert load_checkpoint(str(tmp_path)).model.config.frames == 16
    with pytest.raises(WrongUseError, match="7 frames do not split"):
        load_checkpoint(str(tmp_path), ClipShape(frames=7))
    with pytest.raises(WrongUseError, match="imported"):
        load_checkpoint("builtin:nano", ClipShape(frames=8))


def test_a_preprocessor_sets_the_normalization(tmp_path):
    made(tmp_path)
    facts = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5]}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(facts))
    config = load_checkpoint(str(tmp_path)).model.config
    assert config.senses.video.mean == (0.1, 0.2, 0.3)
    assert config.senses.video.std == (0.5, 0.5, 0.5)


def test_other_tubelets_work_in_python_but_are_not_exported(tmp_path):
    made(tmp_path, tubelet_size=4, frames_per_clip=8)
    with pytest.raises(WrongUseError, match="tubelets of 4 frames"):
        graphs_of(load_checkpoint(str(tmp_path)).model)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bert"}, "type 'bert'"),
        ({"hidden_act": "prelu"}, "hidden_act 'prelu'.*known: gelu"),
        ({"hidden_size": 60, "num_attention_heads": 7}, "60 does not split into 7 heads"),
        ({"hidden_size": 32}, "misshapen: .*needs"),
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2"),
        ({"num_hidden_layers": 1}, "unexpected: encoder.layer.1"),
        ({"qkv_bias": False}, "has no place"),
        ({"patch_size": [16, 8]}, "square"),
        ({"in_chans": 4}, "3 channels"),
        ({"crop_size": 0}, "crop_size is 0"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"use_SiLU": True}, "use_SiLU"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, changes, said):
    made(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises((InputError, WrongUseError), match=said):
        load_checkpoint(str(tmp_path))


def test_broken_files_are_refused(tmp_path):
    made(tmp_path)
    file = tmp_path / "model.safetensors"
    whole, weights = file.read_bytes(), load_file(file)
    for broken in (whole[:-100], whole[:50], b"", struct.pack("<Q", 1 << 60) + whole[8:]):
        file.write_bytes(broken)
        with pytest.raises(InputError, match="may be truncated"):
            load_checkpoint(str(tmp_path))
    gone = weights.pop("encoder.layernorm.bias")
    save_file(weights | {"encoder.layernorm.extra": gone}, file)
    with pytest.raises(InputError, match=r"missing: encoder.layernorm.bias; unexpected: .*extra"):
        load_checkpoint(str(tmp_path))
    file.unlink()
    with pytest.raises(InputError, match="holds no weights"):
        load_checkpoint(str(tmp_path))
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside of its folder"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no readable JSON"):
        load_checkpoint(str(tmp_path))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_pickle_with_code_in_it_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"a": Malicious()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is refused: .*run code"):
        load_checkpoint(str(tmp_path))
    assert not (tmp_path / "pwned").exists()
    torch.save(nn.Linear(2, 2), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="is refused"):
        load_checkpoint(str(tmp_path))
