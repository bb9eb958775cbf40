"""The model against its own definitions, published sizes, and an independent V-JEPA 2."""

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from jepa_edge.contract import AudioSpec, InputError, Senses, VideoSpec, WrongUseError
from jepa_edge.model.checkpoint import load_checkpoint, save_checkpoint
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.graph_source import run_source
from jepa_edge.model.graphs import EncoderGraph, graphs_of
from jepa_edge.model.jepa import JEPA, meta_model
from jepa_edge.model.presets import PRESETS, preset
from jepa_edge.model.rotary import head_tables, turned
from jepa_edge.runtimes.ring import KvRing

SENSES = Senses(video=VideoSpec(height=32, width=48))


def micro(**changes):
    encoder = {"dim": 48, "depth": 2, "heads": 2} | changes.pop("encoder", {})
    fields = {
        "name": "micro",
        "encoder": EncoderConfig(**encoder),
        "predictor": PredictorConfig(dim=24, depth=1, heads=1),
        "action": ActionConfig(dim=24, depth=1, heads=1, candidates=3),
        "senses": SENSES,
        "window": 4,
        "pooled_dim": 16,
    }
    return ModelConfig(**(fields | changes))


def senses_of(config, steps, batch=2):
    random = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 3, 2 * steps, 32, 48, generator=random)
    audio = torch.randn(batch, 1, 64, 20 * steps, generator=random)
    return (video if config.senses.video else None), (audio if config.senses.audio else None)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("steps", [1, 4, 5, 23])
@torch.no_grad()
def test_a_stream_equals_the_whole_history(norm, steps):
    model = JEPA(micro(encoder={"norm": norm})).eval()
    video, audio = senses_of(model.config, steps, batch=1)
    whole = model.encoder(video, audio)
    (source,) = (graph for graph in graphs_of(model) if graph.name == "step")
    ring = KvRing(source.inputs, source.outputs)
    for step in range(steps):
        seen = {
            "video": video[:, :, 2 * step : 2 * step + 2].numpy(),
            "audio": audio[..., 20 * step : 20 * step + 20].numpy(),
        }
        outputs = run_source(source, seen | ring.feed())
        ring.take(outputs)
        np.testing.assert_allclose(outputs["latents"], whole[:, step], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_causal_latents_ignore_the_future_and_bidirectional_ones_do_not():
    for attention, same in (("causal", True), ("bidirectional", False)):
        model = JEPA(micro(encoder={"attention": attention})).eval()
        video, audio = senses_of(model.config, 4)
        before = model.encoder(video, audio)[:, :3]
        video[:, :, 6:] += 1.0
        assert torch.allclose(before, model.encoder(video, audio)[:, :3], atol=1e-6) is same


@torch.no_grad()
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_training_attends_as_inference_does(attention):
    model = JEPA(micro(encoder={"attention": attention}))
    video, audio = senses_of(model.config, 6)
    trained, _ = model.train()(video, audio)
    inferred, _ = model.eval()(video, audio)
    torch.testing.assert_close(trained, inferred, rtol=1e-4, atol=1e-5)


def test_attention_reaches_window_steps_back_and_no_further():
    model = JEPA(micro(encoder={"depth": 1})).eval()
    video, audio = senses_of(model.config, 6)
    last = model.encoder(video, audio)[:, 5]
    for step, seen in ((1, False), (2, True)):
        changed = video.clone()
        changed[:, :, 2 * step : 2 * step + 2] += 1.0
        assert torch.allclose(last, model.encoder(changed, audio)[:, 5], atol=1e-6) is not seen


@pytest.mark.parametrize("sense", ["video", "audio", "both"])
@torch.no_grad()
def test_one_sense_or_both(sense):
    senses = {
        "video": Senses(video=SENSES.video, audio=None),
        "audio": Senses(video=None, audio=AudioSpec()),
        "both": SENSES,
    }[sense]
    model = JEPA(micro(senses=senses)).eval()
    video, audio = senses_of(model.config, 4)
    latents, pooled = model(video, audio)
    assert latents.shape == (2, 4, model.config.tokens_per_step, 48)
    assert pooled.shape == (2, 4, 16)
    assert model.predict(latents)[0].shape == (2, 2, model.config.tokens_per_step, 48)
    if sense == "both":
        assert model(video, None)[1].shape == model(None, audio)[1].shape == (2, 4, 16)
        with pytest.raises(InputError, match="neither"):
            model(None, None)


@torch.no_grad()
def test_at_inference_the_whole_clip_is_context():
    """The 80/20 split belongs to training: each step given must matter to each output."""
    model = JEPA(micro()).eval()
    graph = EncoderGraph(model)
    video, audio = senses_of(model.config, 4, batch=1)
    latents, _ = graph(video, audio)
    assert latents.shape[1] == 4 * model.config.tokens_per_step
    steps = latents.view(1, 4, model.config.tokens_per_step, -1)
    future, _ = model.predict(steps)
    for step in range(4):
        changed = steps.clone()
        changed[:, step] = changed[:, step].flip(-1)
        assert not torch.allclose(future, model.predict(changed)[0], atol=1e-6)


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu"])
@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_every_predictor_learns(kind, activation):
    spec = PredictorConfig(kind=kind, dim=24, depth=1, heads=1, activation=activation)
    model = JEPA(micro(predictor=spec, encoder={"activation": activation}))
    latents, _ = model(*senses_of(model.config, 4))
    future, pooled = model.predict(latents)
    (future.square().mean() + pooled.square().mean()).backward()
    assert all(p.grad is not None for p in model.predictor.parameters())


@torch.no_grad()
def test_a_rollout_sees_only_the_actions_before_it():
    model = JEPA(micro()).eval()
    history, actions = torch.randn(1, 3, 16), torch.randn(3, 5, 4)
    rolled = model.rollout(history, actions)
    changed = actions.clone()
    changed[:, 2] += 1.0
    again = model.rollout(history, changed)
    assert torch.allclose(rolled[:, :2], again[:, :2], atol=1e-6)
    assert not torch.allclose(rolled[:, 2:], again[:, 2:], atol=1e-6)


@torch.no_grad()
def test_candidates_share_what_was_seen():
    model = JEPA(micro()).eval()
    history, actions = torch.randn(2, 3, 16), torch.randn(2, 5, 4)
    each = torch.cat([model.rollout(history[i : i + 1], actions[i : i + 1]) for i in (0, 1)])
    assert torch.allclose(model.rollout(history, actions), each, atol=1e-5)
    assert not torch.allclose(model.rollout(history[:1], actions)[1], each[1], atol=1e-4)


@torch.no_grad()
def test_masked_tokens_are_never_computed():
    model = JEPA(micro(encoder={"attention": "bidirectional"})).eval()
    video, audio = senses_of(model.config, 4)
    everything = torch.arange(4 * model.config.tokens_per_step).expand(2, -1)
    all_kept = model.encoder.masked(video, audio, everything)
    torch.testing.assert_close(all_kept, model.encoder(video, audio).flatten(1, 2))
    first = everything[:, : 2 * model.config.tokens_per_step]
    kept = model.encoder.masked(video, audio, first)
    video[:, :, 4:] = 9.0
    torch.testing.assert_close(kept, model.encoder.masked(video, audio, first))


def test_interleaved_rotary_is_a_rotation_and_tiled_is_not():
    random = np.random.default_rng(0)
    q, k = (torch.from_numpy(random.standard_normal((1, 64))).double() for _ in range(2))
    at = np.array([[3, 1, 2]])

    def score(layout, shift):
        tables = [
            tuple(t.double() for t in head_tables(at + [[move + shift, 0, 0]], 64, layout))
            for move in (0, 5)
        ]
        return float((turned(q, *tables[0]) * turned(k, *tables[1])).sum())

    assert score("interleaved", 0) == pytest.approx(score("interleaved", 40), rel=1e-5)
    assert score("tiled", 0) != pytest.approx(score("tiled", 40), rel=1e-3)
    with pytest.raises(WrongUseError, match="cannot stream"):
        EncoderConfig(dim=48, depth=1, heads=2, attention="causal", rotary="tiled")


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 5.7), ("small", 22.0), ("base", 86.0), ("large", 303.9)]
)
def test_presets_have_the_published_sizes(name, millions):
    encoder = meta_model(preset(name)).encoder
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("name", ["large", "huge", "giant"])
def test_large_presets_count_as_transformers_v_jepa_2_does(name):
    vjepa2 = pytest.importorskip("transformers", reason="the oracle comes with the dev extra")
    spec = preset(name).encoder
    config = vjepa2.VJEPA2Config(
        hidden_size=spec.dim,
        num_hidden_layers=spec.depth,
        num_attention_heads=spec.heads,
        mlp_ratio=spec.mlp_ratio,
    )
    with torch.device("meta"):
        theirs = vjepa2.VJEPA2Model(config)
    ours = meta_model(preset(name))

    def count(module):
        return sum(p.numel() for p in module.parameters())

    spare_mask_tokens = (config.pred_num_mask_tokens - 1) * config.pred_hidden_size
    assert count(ours.encoder) == count(theirs.encoder)
    assert count(ours.predictor) == count(theirs.predictor) - spare_mask_tokens


def test_nano_fits_its_shipping_size():
    assert PRESETS["nano"].name == "nano"
    assert 1e6 < meta_model(preset("nano")).facts().parameters < 2.5e6


@torch.no_grad()
def test_checkpoint_round_trip(tmp_path):
    model = JEPA(micro()).eval()
    save_checkpoint(model, tmp_path / "m.safetensors")
    again = load_checkpoint(str(tmp_path / "m.safetensors")).model
    video, audio = senses_of(model.config, 4)
    torch.testing.assert_close(model(video, audio), again(video, audio))
    assert again.config == model.config


def test_checkpoints_that_keep_rotary_pairs_side_by_side_are_read(tmp_path):
    """Format 1 had head channels 0, 1, 2, 3 ... where format 2 has 0, 2, ..., 1, 3, ..."""
    torch.manual_seed(0)
    model = JEPA(micro()).eval()
    save_checkpoint(model, tmp_path / "m.safetensors")
    paired = load_file(tmp_path / "m.safetensors")
    for name, rows in paired.items():
        if ".qkv." in name:
            heads = 2 if name.startswith("encoder") else 1
            for which in range(2):  # queries, keys
                for head in rows.chunk(3)[which].chunk(heads):
                    head[0::2], head[1::2] = (half.clone() for half in head.chunk(2))
    config = msgspec.json.encode(model.config).decode()
    metadata = {"format": "jepa_edge/1", "config": config}
    save_file(paired, tmp_path / "1.safetensors", metadata=metadata)
    read = load_checkpoint(str(tmp_path / "1.safetensors")).model.state_dict()
    assert any(not torch.equal(paired[name], rows) for name, rows in read.items())
    for name, rows in model.state_dict().items():
        assert torch.equal(read[name], rows), name


def test_checkpoint_errors_say_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="builtin:nano"):
        load_checkpoint(str(tmp_path / "none.safetensors"))
    with pytest.raises(WrongUseError, match="known: .*nano"):
        load_checkpoint("builtin:nono")
    (tmp_path / "bad.safetensors").write_bytes(b"not a checkpoint at all")
    with pytest.raises(InputError, match="no readable safetensors"):
        load_checkpoint(str(tmp_path / "bad.safetensors"))
    model = JEPA(micro())
    model.config = msgspec.structs.replace(model.config, pooled_dim=8)
    save_checkpoint(model, tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match=r"pool\.proj\.weight is \(16, .*needs \(8"):
        load_checkpoint(str(tmp_path / "odd.safetensors"))


def test_graphs_give_the_shapes_they_promise():
    for source in graphs_of(JEPA(micro()).eval()):
        outputs = source.module(*(torch.zeros(spec.shape) for spec in source.inputs))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert [tuple(o.shape) for o in outputs] == [spec.shape for spec in source.outputs]
