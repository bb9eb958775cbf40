"""Meta's files against small functions written from the papers' formulas, and broken files.

The files are random ones in the published layout: key names of facebookresearch/vjepa2.
"""

import math
import os

import pytest
import torch
from torch.nn import functional

from jepa_edge.contract import InputError
from jepa_edge.export.trace import write_onnx
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.vjepa.config import ClipShape

TOLERANCE = 1e-5
DIM, PRED, PATCH = 128, 96, 16
SHAPE = ClipShape(frames=4, height=32, width=48)
GRID = (2, 3)


def random_block(name, dim):
    hidden = 3 * dim
    return {
        f"{name}.norm1.weight": (dim,),
        f"{name}.norm1.bias": (dim,),
        f"{name}.attn.qkv.weight": (3 * dim, dim),
        f"{name}.attn.qkv.bias": (3 * dim,),
        f"{name}.attn.proj.weight": (dim, dim),
        f"{name}.attn.proj.bias": (dim,),
        f"{name}.norm2.weight": (dim,),
        f"{name}.norm2.bias": (dim,),
        f"{name}.mlp.fc1.weight": (hidden, dim),
        f"{name}.mlp.fc1.bias": (hidden,),
        f"{name}.mlp.fc2.weight": (dim, hidden),
        f"{name}.mlp.fc2.bias": (dim,),
    }


def linear(name, into, out):
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def filled(shapes, seed=0):
    random = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        scale = 0.3 if len(shape) == 1 or "token" in name or "mod" in name else 0.12
        made[name] = scale * torch.randn(shape, generator=random)
    return made


def encoder_weights(depth=4, *, newer=False):
    shapes = {
        "patch_embed.proj.weight": (DIM, 3, 2, PATCH, PATCH),
        "patch_embed.proj.bias": (DIM,),
    }
    for k in range(depth):
        shapes |= random_block(f"blocks.{k}", DIM)
    if newer:
        shapes |= {
            "patch_embed_img.proj.weight": (DIM, 3, 1, PATCH, PATCH),
            "patch_embed_img.proj.bias": (DIM,),
            "img_mod_embed": (1, 1, DIM),
            "video_mod_embed": (1, 1, DIM),
        }
        for k in range(4):
            shapes |= {f"norms_block.{k}.weight": (DIM,), f"norms_block.{k}.bias": (DIM,)}
    else:
        shapes |= {"norm.weight": (DIM,), "norm.bias": (DIM,), "pos_embed": (1, 8, DIM)}
    return filled(shapes)


def predictor_weights(*, levels=1, newer=False, out=DIM):
    shapes = {}
    if levels > 1:
        shapes |= linear("predictor_embed.0", levels * DIM, DIM)
        shapes |= linear("predictor_embed.2", DIM, PRED)
    else:
        shapes |= linear("predictor_embed", DIM, PRED)
    for k in range(8 if newer else 10):
        shapes[f"mask_tokens.{k}"] = (1, 1, PRED)
    for k in range(2):
        shapes |= random_block(f"predictor_blocks.{k}", PRED)
    shapes |= {"predictor_norm.weight": (PRED,), "predictor_norm.bias": (PRED,)}
    shapes |= linear("predictor_proj", PRED, levels * out)
    if newer:
        shapes |= linear("predictor_proj_context", PRED, levels * out)
        shapes |= {"img_mod_embed": (1, 1, PRED), "video_mod_embed": (1, 1, PRED)}
    return filled(shapes, seed=1)


def action_weights():
    shapes = linear("predictor_embed", DIM, PRED)
    shapes |= linear("action_encoder", 7, PRED) | linear("state_encoder", 7, PRED)
    shapes |= linear("extrinsics_encoder", 6, PRED)
    for k in range(2):
        shapes |= random_block(f"predictor_blocks.{k}", PRED)
    shapes |= {"predictor_norm.weight": (PRED,), "predictor_norm.bias": (PRED,)}
    shapes |= linear("predictor_proj", PRED, DIM)
    return filled(shapes, seed=2)


def saved(path, prefix="module.backbone.", **parts):
    named = {
        part: {prefix + name: value for name, value in weights.items()}
        for part, weights in parts.items()
    }
    torch.save(named | {"opt": {"state": {}}, "epoch": 3, "loss": 0.5, "scaler": None}, path)
    return str(path)


def reference_turn(x, where, *, tiled):
    """Rotary positions, channel by channel: `x [heads, N, d]`, `where [N, 3]`."""
    width = 2 * ((x.shape[-1] // 3) // 2)
    out = x.clone()
    for axis in range(3):
        for j in range(width):
            number = j % (width // 2) if tiled else j // 2
            angle = where[:, axis].double() * 10000 ** (-2 * number / width)
            at, pair = axis * width + j, axis * width + (j ^ 1)
            sign = -1.0 if j % 2 == 0 else 1.0
            turned = x[..., at].double() * angle.cos() + sign * x[..., pair].double() * angle.sin()
            out[..., at] = turned.float()
    return out


def reference_block(weights, name, x, where, heads, *, tiled, allowed=None):
    """One pre-norm block on `x [N, D]`."""

    def layer(part, y):
        return y @ weights[f"{name}.{part}.weight"].T + weights[f"{name}.{part}.bias"]

    def norm(part, y):
        pair = weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"]
        return functional.layer_norm(y, y.shape[-1:], *pair, eps=1e-6)

    count, dim = x.shape
    qkv = layer("attn.qkv", norm("norm1", x)).view(count, 3, heads, dim // heads)
    q, k, v = qkv.permute(1, 2, 0, 3)
    q, k = reference_turn(q, where, tiled=tiled), reference_turn(k, where, tiled=tiled)
    scores = q @ k.transpose(-1, -2) / math.sqrt(dim // heads)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    x = x + layer("attn.proj", (scores.softmax(-1) @ v).transpose(0, 1).reshape(count, dim))
    return x + layer("mlp.fc2", functional.gelu(layer("mlp.fc1", norm("norm2", x))))


def positions(steps):
    return torch.tensor(
        [(t, y, x) for t in range(steps) for y in range(GRID[0]) for x in range(GRID[1])]
    ).float()


def reference_encoder(weights, clip, *, newer, image=False):
    """Outputs of every level `[N, D]`, the last being the latents; `clip [3, T, H, W]`."""
    name, mod = ("patch_embed_img", "img") if image else ("patch_embed", "video")
    kernel = weights[f"{name}.proj.weight"]
    x = functional.conv3d(
        clip[None], kernel, weights[f"{name}.proj.bias"], stride=tuple(kernel.shape[2:])
    )[0]
    x = x.flatten(1).T
    where = positions(len(x) // 6)
    if newer:
        x = x + weights[f"{mod}_mod_embed"][0]
        where = where * torch.tensor([1, 15 / (GRID[0] - 1), 15 / (GRID[1] - 1)])
    outputs = []
    for k in range(4):
        x = reference_block(weights, f"blocks.{k}", x, where, DIM // 64, tiled=not newer)
        norm = f"norms_block.{k}" if newer else "norm"
        pair = weights[f"{norm}.weight"], weights[f"{norm}.bias"]
        outputs.append(functional.layer_norm(x, (DIM,), *pair, eps=1e-6))
    return outputs


def reference_predictor(weights, context, seen, wanted, *, newer):
    """Predictions `[Q, out]`; tokens sorted by position, as the published code does."""
    if "predictor_embed.weight" in weights:
        x = context @ weights["predictor_embed.weight"].T + weights["predictor_embed.bias"]
    else:
        x = context @ weights["predictor_embed.0.weight"].T + weights["predictor_embed.0.bias"]
        x = functional.gelu(x) @ weights["predictor_embed.2.weight"].T
        x = x + weights["predictor_embed.2.bias"]
    x = torch.cat((x, weights["mask_tokens.1"][0].expand(len(wanted), -1)))
    if newer:
        x = x + weights["video_mod_embed"][0]
    ids = torch.cat((seen, wanted))
    order = ids.argsort()
    x, where = x[order], positions(4)[ids[order]]
    for k in range(2):
        x = reference_block(weights, f"predictor_blocks.{k}", x, where, 12, tiled=not newer)
    pair = weights["predictor_norm.weight"], weights["predictor_norm.bias"]
    x = functional.layer_norm(x, (PRED,), *pair, eps=1e-6)[order.argsort()][len(seen) :]
    return x @ weights["predictor_proj.weight"].T + weights["predictor_proj.bias"]


def relative(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def clip_of(frames=4):
    return torch.randn(3, frames, 32, 48, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
@pytest.mark.parametrize("part", ["encoder", "target_encoder"])
def test_v_jepa_2_equals_its_formulas(tmp_path, part):
    encoder, predictor = encoder_weights(), predictor_weights()
    parts = {part: encoder, "predictor": predictor}
    if part == "target_encoder":
        parts["encoder"] = {name: w + 1 for name, w in encoder.items()}  # the student is not used
    model = load_checkpoint(saved(tmp_path / "vitx.pt", **parts), SHAPE).model
    assert (model.config.family, model.config.rotary) == ("2.0", "tiled")
    latents, _ = model(clip_of()[None])
    theirs = reference_encoder(encoder, clip_of(), newer=False)[-1]
    assert relative(latents[0], theirs) < TOLERANCE
    seen, wanted = torch.tensor([7, 2, 11]), torch.tensor([0, 9, 3, 1])
    predicted = model.predict_masked(latents[:, seen], seen[None], wanted[None])[0]
    theirs = reference_predictor(predictor, theirs[seen], seen, wanted, newer=False)
    assert relative(predicted, theirs) < TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("levels", [1, 4])
def test_v_jepa_2_1_equals_its_formulas(tmp_path, levels):
    """Interleaved rotary on a stretched grid, level norms, modality embeddings, single frames."""
    encoder = encoder_weights(newer=True)
    predictor = predictor_weights(levels=levels, newer=True, out=160 if levels == 1 else DIM)
    part = "ema_encoder" if levels == 1 else "target_encoder"
    file = saved(tmp_path / "new.pt", **{part: encoder, "predictor": predictor})
    model = load_checkpoint(file, SHAPE).model
    assert (model.config.family, model.config.rotary) == ("2.1", "interleaved")
    theirs = reference_encoder(encoder, clip_of(), newer=True)
    assert relative(model(clip_of()[None])[0][0], theirs[-1]) < TOLERANCE
    image = clip_of()[:, :1]
    still = reference_encoder(encoder, image, newer=True, image=True)[-1]
    assert relative(model.encoder.image(image[None])[0], still) < TOLERANCE
    context = torch.cat(theirs, -1) if levels == 4 else theirs[-1]
    ours = torch.cat(model.encoder.of_levels(clip_of()[None]), -1)
    assert relative(ours[0], context) < TOLERANCE
    seen, wanted = torch.tensor([7, 2, 11]), torch.tensor([0, 9, 3, 1])
    predicted = model.predict_masked(ours[:, seen], seen[None], wanted[None])[0]
    expected = reference_predictor(predictor, context[seen], seen, wanted, newer=True)
    assert relative(predicted, expected) < TOLERANCE
    names = [graph.name for graph in graphs_of(model)]
    assert names == ["encoder", "masked_predictor", "image_encoder"]


@torch.no_grad()
def test_tiled_and_interleaved_rotary_are_told_apart(tmp_path):
    """Reading one as the other gives plausible but wrong latents: the family decides."""
    encoder = encoder_weights()
    model = load_checkpoint(saved(tmp_path / "a.pt", encoder=encoder), SHAPE).model
    latents = model(clip_of()[None])[0][0]
    x = encoder | {"video_mod_embed": torch.zeros(1, 1, DIM)}
    x |= {
        f"norms_block.{k}.{p}": encoder[f"norm.{p}"] for k in range(4) for p in ("weight", "bias")
    }
    other = reference_encoder(x, clip_of(), newer=True)[-1]
    assert relative(latents, other) > 100 * TOLERANCE


@torch.no_grad()
def test_v_jepa_2_ac_rolls_out_as_its_formulas_say(tmp_path):
    """Steps through the cache equal one pass over the whole sequence under the frame mask."""
    encoder, predictor = encoder_weights(), action_weights()
    file = saved(tmp_path / "ac.pt", prefix="module.", encoder=encoder, predictor=predictor)
    shape = ClipShape(height=32, width=48, horizon=3)
    model = load_checkpoint(file, shape).model
    assert (model.config.family, model.config.frames) == ("2-AC", 2)
    frame = clip_of(1)
    latents, _ = model(frame[None])  # a single frame, shown twice
    doubled = reference_encoder(encoder, frame.repeat(1, 2, 1, 1), newer=False)[-1]
    start = functional.layer_norm(doubled, (DIM,))
    assert relative(latents[0], start) < TOLERANCE
    actions, states = torch.randn(4, 1, 7), torch.randn(4, 1, 7)
    cache, known = model.action.empty_cache(), [start]
    for step in range(4):
        given = actions[step], states[step]
        latents, cache = model.action(latents, given, torch.tensor([step]), cache)
        expected = _reference_action(predictor, known, actions[:, 0], states[:, 0])
        known.append(expected)
        assert relative(latents[0], expected) < TOLERANCE


def _reference_action(weights, known, actions, states):
    """The latents after the last of `known` steps, all steps computed again."""

    def layer(name, y):
        return y @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    rows, where = [], []
    for t, latents in enumerate(known):
        added = torch.stack(
            (layer("action_encoder", actions[t]), layer("state_encoder", states[t]))
        )
        rows += [added, layer("predictor_embed", latents)]
        patches = positions(1) + torch.tensor([t, 0, 0])
        where += [torch.tensor([[t, 0, 0]] * 2).float(), patches]
    x, where = torch.cat(rows), torch.cat(where)
    step = torch.arange(len(x)) // 8
    for k in range(2):
        x = reference_block(
            weights, f"predictor_blocks.{k}", x, where, 16, tiled=True,
            allowed=step[:, None] >= step[None],
        )  # fmt: skip
    pair = weights["predictor_norm.weight"], weights["predictor_norm.bias"]
    x = functional.layer_norm(x[-6:], (PRED,), *pair, eps=1e-6)
    return functional.layer_norm(layer("predictor_proj", x), (DIM,))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_broken_and_malicious_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    encoder = encoder_weights()
    torch.save({"encoder": encoder, "extra": Malicious()}, path)
    with pytest.raises(InputError, match=r"is refused: .*run code"):
        load_checkpoint(str(path), SHAPE)
    assert not (tmp_path / "pwned").exists()
    whole = tmp_path / "whole.pt"
    torch.save({"encoder": encoder}, whole)
    for cut in (0, 10, whole.stat().st_size // 2, whole.stat().st_size - 30):
        path.write_bytes(whole.read_bytes()[:cut])
        with pytest.raises(InputError, match=r"truncated|refused"):
            load_checkpoint(str(path), SHAPE)
    for content, said in (
        ({"encoder": {"weight": torch.zeros(2)}, "net": {}}, "it holds: encoder, net"),
        ([1, 2], "holds list"),
        (
            {"encoder": {n: w for n, w in encoder.items() if "2.norm1" not in n}},
            "missing: blocks.2",
        ),
        ({"encoder": encoder | {"cls_token": torch.zeros(1)}}, "unexpected: cls_token"),
        ({"encoder": encoder | {"norm.weight": torch.zeros(3)}}, "misshapen: norm.weight is"),
        ({"encoder": encoder, "predictor": {"a": torch.zeros(1)}}, "lacks predictor_norm"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=said):
            load_checkpoint(str(path), SHAPE)


@pytest.mark.slow
@torch.no_grad()
def test_the_action_step_is_one_graph_for_any_number_of_candidates(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    file = saved(tmp_path / "ac.pt", encoder=encoder_weights(), predictor=action_weights())
    model = load_checkpoint(file, ClipShape(height=32, width=48)).model
    (source,) = [graph for graph in graphs_of(model) if graph.name == "rollout_step"]
    write_onnx(source, tmp_path / "step.onnx", half=False)
    session = ort.InferenceSession(str(tmp_path / "step.onnx"))
    for candidates in (1, 5):
        latents, cache = torch.randn(candidates, 6, DIM), model.action.empty_cache(candidates)
        action, state = torch.randn(candidates, 7), torch.randn(candidates, 7)
        for step in range(3):
            given = latents, action, state, torch.tensor([step]), *cache
            named = {spec.name: x.numpy() for spec, x in zip(source.inputs, given, strict=True)}
            ours = session.run(["next_latents"], named)[0]
            latents, cache = model.action(latents, (action, state), given[3], cache)
            assert relative(torch.from_numpy(ours), latents) < TOLERANCE
