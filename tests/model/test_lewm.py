"""LeWM against `transformers`' vision transformer and a predictor written from its formulas."""

import pytest
import torch
from torch.nn import functional

from jepa_edge.contract import InputError
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graph_source import example_inputs
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.lewm import LeWm

transformers = pytest.importorskip("transformers", reason="the oracle comes with the dev extra")
DIM, HEADS, HEAD_DIM, MLP, ACTIONS, HISTORY = 192, 2, 64, 96, 10, 3
TOLERANCE = 1e-5


def vit():
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=DIM, num_hidden_layers=2, num_attention_heads=3, intermediate_size=256,
        patch_size=14, image_size=28, initializer_range=0.2,
    )  # fmt: skip
    model = transformers.ViTModel(config, add_pooling_layer=False, use_mask_token=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def random_weights(encoder):
    shapes = {"predictor.pos_embedding": (1, HISTORY, DIM)}
    inside = "predictor.transformer"
    shapes |= {f"{inside}.norm.weight": (DIM,), f"{inside}.norm.bias": (DIM,)}
    for k in range(2):
        name = f"{inside}.layers.{k}"
        shapes |= {
            f"{name}.attn.norm.weight": (DIM,),
            f"{name}.attn.norm.bias": (DIM,),
            f"{name}.attn.to_qkv.weight": (3 * HEADS * HEAD_DIM, DIM),
            f"{name}.attn.to_out.0.weight": (DIM, HEADS * HEAD_DIM),
            f"{name}.attn.to_out.0.bias": (DIM,),
            f"{name}.mlp.net.0.weight": (DIM,),
            f"{name}.mlp.net.0.bias": (DIM,),
            f"{name}.mlp.net.1.weight": (MLP, DIM),
            f"{name}.mlp.net.1.bias": (MLP,),
            f"{name}.mlp.net.4.weight": (DIM, MLP),
            f"{name}.mlp.net.4.bias": (DIM,),
            f"{name}.adaLN_modulation.1.weight": (6 * DIM, DIM),
            f"{name}.adaLN_modulation.1.bias": (6 * DIM,),
        }
    shapes |= {
        "action_encoder.patch_embed.weight": (12, ACTIONS, 1),
        "action_encoder.patch_embed.bias": (12,),
        "action_encoder.embed.0.weight": (4 * DIM, 12),
        "action_encoder.embed.0.bias": (4 * DIM,),
        "action_encoder.embed.2.weight": (DIM, 4 * DIM),
        "action_encoder.embed.2.bias": (DIM,),
    }
    for name in ("projector", "pred_proj"):
        shapes |= {
            f"{name}.net.0.weight": (80, DIM),
            f"{name}.net.0.bias": (80,),
            f"{name}.net.1.weight": (80,),
            f"{name}.net.1.bias": (80,),
            f"{name}.net.1.running_mean": (80,),
            f"{name}.net.1.running_var": (80,),
            f"{name}.net.3.weight": (DIM, 80),
            f"{name}.net.3.bias": (DIM,),
        }
    made = {name: 0.1 * torch.randn(shape) for name, shape in shapes.items()}
    for name in ("projector", "pred_proj"):
        made[f"{name}.net.1.running_var"] = made[f"{name}.net.1.running_var"].abs() + 0.5
        made[f"{name}.net.1.num_batches_tracked"] = torch.tensor(7)
    return made | {f"encoder.{name}": value for name, value in encoder.state_dict().items()}


def old_names(weights):
    """As versions of `transformers` before 5 called the encoder's layers."""
    renamed = {}
    for name, value in weights.items():
        for new, old in (
            ("encoder.layers.", "encoder.encoder.layer."),
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            name = name.replace(new, old) if name.startswith("encoder.") else name
        renamed[name] = value
    return renamed


def layer(weights, name, x):
    return functional.linear(x, weights[f"{name}.weight"].flatten(1), weights.get(f"{name}.bias"))


def projected(weights, name, x):
    x = layer(weights, f"{name}.net.0", x)
    norm = [weights[f"{name}.net.1.{f}"] for f in ("running_mean", "running_var", "weight", "bias")]
    x = functional.batch_norm(x, norm[0], norm[1], norm[2], norm[3])
    return layer(weights, f"{name}.net.3", functional.gelu(x))


def reference_predict(weights, latents, actions):
    """What follows the last of `latents [T, D]`."""
    smooth = layer(weights, "action_encoder.patch_embed", actions)
    hidden = functional.silu(layer(weights, "action_encoder.embed.0", smooth))
    condition = layer(weights, "action_encoder.embed.2", hidden)
    count = len(latents)
    x = latents + weights["predictor.pos_embedding"][0, :count]

    def norm(name, y):
        pair = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(y, (DIM,), *pair)

    for k in range(2):
        name = f"predictor.transformer.layers.{k}"
        parts = layer(weights, f"{name}.adaLN_modulation.1", functional.silu(condition)).chunk(6, 1)
        y = functional.layer_norm(x, (DIM,), eps=1e-6) * (1 + parts[1]) + parts[0]
        qkv = layer(weights, f"{name}.attn.to_qkv", norm(f"{name}.attn.norm", y))
        q, k_, v = qkv.view(count, 3, HEADS, HEAD_DIM).permute(1, 2, 0, 3)
        scores = q @ k_.transpose(1, 2) / HEAD_DIM**0.5
        scores = scores.masked_fill(torch.ones(count, count).triu(1).bool(), -torch.inf)
        heads = (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, -1)
        x = x + parts[2] * layer(weights, f"{name}.attn.to_out.0", heads)
        y = functional.layer_norm(x, (DIM,), eps=1e-6) * (1 + parts[4]) + parts[3]
        y = functional.gelu(layer(weights, f"{name}.mlp.net.1", norm(f"{name}.mlp.net.0", y)))
        x = x + parts[5] * layer(weights, f"{name}.mlp.net.4", y)
    return projected(weights, "pred_proj", norm("predictor.transformer.norm", x))[-1]


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@torch.no_grad()
@pytest.mark.parametrize("layout", ["today's names", "old names, in a folder"])
def test_lewm_equals_its_formulas(tmp_path, layout):
    encoder = vit()
    weights = random_weights(encoder)
    source = tmp_path / "lewm.pt"
    if layout == "today's names":
        torch.save({"state_dict": {f"model.{n}": w for n, w in weights.items()}}, source)
    else:
        source = tmp_path / "pusht"
        source.mkdir()
        torch.save(old_names(weights), source / "weights.pt")
    model = load_checkpoint(str(source)).model
    assert isinstance(model, LeWm)
    frame = torch.randn(2, 3, 28, 28)
    theirs = projected(weights, "projector", encoder(frame).last_hidden_state[:, 0])
    assert relative(model.encoder(frame), theirs) < TOLERANCE
    actions = torch.randn(2, 5, ACTIONS)
    rolled = model.rollout(theirs[:1, None], actions)
    for candidate in range(2):
        known = [theirs[0]]
        for step in range(5):
            first = max(0, step + 1 - HISTORY)
            seen = torch.stack(known[first:])
            known.append(reference_predict(weights, seen, actions[candidate, first : step + 1]))
            assert relative(rolled[candidate, step], known[-1]) < TOLERANCE


@torch.no_grad()
def test_its_graphs_give_what_they_promise_and_wrong_files_are_refused(tmp_path):
    weights = random_weights(vit())
    torch.save(weights, tmp_path / "lewm.pt")
    model = load_checkpoint(str(tmp_path / "lewm.pt")).model
    for source in graphs_of(model):
        outputs = source.module(*example_inputs(source))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert [tuple(o.shape) for o in outputs] == [spec.shape for spec in source.outputs]
    assert model.facts().action_dim == ACTIONS
    gone = "predictor.transformer.layers.1.attn.norm.bias"
    torch.save({n: w for n, w in weights.items() if n != gone}, tmp_path / "lewm.pt")
    with pytest.raises(InputError, match=f"missing: {gone}"):
        load_checkpoint(str(tmp_path / "lewm.pt"))
    torch.save(weights | {"predictor.extra": torch.zeros(2)}, tmp_path / "lewm.pt")
    with pytest.raises(InputError, match=r"unexpected: predictor\.extra"):
        load_checkpoint(str(tmp_path / "lewm.pt"))
