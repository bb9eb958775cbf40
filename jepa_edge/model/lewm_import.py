"""LeWM checkpoints (a folder with ``weights.pt``, or the file alone) → a model."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from jepa_edge.contract import InputError
from jepa_edge.model.lewm import ConditionedBlock, LeWm, LeWmConfig
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.model.vjepa.layers import Dense, Mlp
from jepa_edge.model.vjepa.weights import DictSource, Loader, unpickled

WEIGHTS = "weights.pt"
MARK = "predictor.pos_embedding"
BATCH_NORM_EPS = 1e-5
HEAD_DIM = 64
RENAMED = (
    ("encoder.encoder.layer.", "encoder.layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
"""Names that older versions of `transformers` gave the encoder's layers, and today's."""


def lewm_weights(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a LeWM checkpoint by today's names, or None if `path` holds none.

    Raises `InputError` for a file that is broken or would run code.
    """
    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        return None
    found = unpickled(file)
    for name in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict):
        return None
    tensors = {_name(str(key)): value for key, value in found.items() if torch.is_tensor(value)}
    return tensors if MARK in tensors else None


def load_lewm(path: Path, weights: dict[str, Tensor], shape: ClipShape) -> LeWm:
    """The model, on the CPU in fp32. Raises `InputError` listing every tensor that does not fit."""
    config = _config(path, weights, shape)
    with torch.device("meta"):
        model = LeWm(config)
    loader = Loader(DictSource(weights, str(path)))
    _fill_encoder(model, loader)
    _fill_predictor(model, loader)
    loader.skip(lambda name: name.endswith("num_batches_tracked"))
    loader.finish("LeWM")
    return model.eval().requires_grad_(requires_grad=False)


def _name(name: str) -> str:
    name = re.sub(r"^(model\.|module\.)+", "", name)
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


def _config(path: Path, weights: dict[str, Tensor], shape: ClipShape) -> LeWmConfig:
    try:
        kernel = weights["encoder.embeddings.patch_embeddings.projection.weight"]
        positions = weights["encoder.embeddings.position_embeddings"]
        qkv = weights["predictor.transformer.layers.0.attn.to_qkv.weight"]
        dim, patch = kernel.shape[0], kernel.shape[-1]
        side = round((positions.shape[1] - 1) ** 0.5)
        head_dim = HEAD_DIM if qkv.shape[0] % (3 * HEAD_DIM) == 0 else qkv.shape[0] // 3
        return LeWmConfig(
            name=path.stem,
            dim=dim,
            depth=_count(weights, "encoder.layers."),
            heads=max(dim // HEAD_DIM, 1),
            mlp_dim=weights["encoder.layers.0.mlp.fc1.weight"].shape[0],
            patch=patch,
            pixels=side * patch,
            latent_dim=weights["projector.net.3.weight"].shape[0],
            projector_dim=weights["projector.net.0.weight"].shape[0],
            predictor_dim=qkv.shape[1],
            predictor_depth=_count(weights, "predictor.transformer.layers."),
            predictor_heads=qkv.shape[0] // (3 * head_dim),
            predictor_head_dim=head_dim,
            predictor_mlp_dim=weights["predictor.transformer.layers.0.mlp.net.1.weight"].shape[0],
            history=weights[MARK].shape[1],
            action_dim=weights["action_encoder.patch_embed.weight"].shape[1],
            smoothed_dim=weights["action_encoder.patch_embed.weight"].shape[0],
            action_hidden=weights["action_encoder.embed.0.weight"].shape[0],
            fps=shape.fps,
        )
    except (KeyError, IndexError) as error:
        raise InputError(f"{path} does not fit LeWM: missing {error}") from error


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    numbers = {name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)}
    return len(numbers)


def _fill_encoder(model: LeWm, loader: Loader) -> None:
    encoder = model.encoder
    loader.dense(encoder.patches, "encoder.embeddings.patch_embeddings.projection")
    for attribute, name in (("cls", "cls_token"), ("positions", "position_embeddings")):
        full = f"encoder.embeddings.{name}"
        tensor = loader.take(full)
        if tensor is not None:
            loader.put(encoder, attribute, full, tensor.squeeze(0).squeeze(0))
    for number, block in enumerate(encoder.blocks):
        name = f"encoder.layers.{number}"
        loader.norm(block.get_submodule("norm1"), f"{name}.layernorm_before")
        loader.split_qkv(block, encoder.config.heads, f"{name}.attention")
        loader.dense(block.get_submodule("proj"), f"{name}.attention.o_proj")
        loader.norm(block.get_submodule("norm2"), f"{name}.layernorm_after")
        loader.mlp(block.get_submodule("mlp"), f"{name}.mlp")
    loader.norm(encoder.norm, "encoder.layernorm")
    _projector(loader, encoder.projector, "projector")


def _fill_predictor(model: LeWm, loader: Loader) -> None:
    loader.dense(model.smooth, "action_encoder.patch_embed")
    loader.dense(model.action.fc1, "action_encoder.embed.0")
    loader.dense(model.action.fc2, "action_encoder.embed.2")
    positions = loader.take(MARK)
    if positions is not None:
        loader.put(model, "positions", MARK, positions[0])
    inside = "predictor.transformer"
    for layer, name in (
        (model.into, "input_proj"),
        (model.action_into, "cond_proj"),
        (model.out, "output_proj"),
    ):
        if isinstance(layer, Dense):
            loader.dense(layer, f"{inside}.{name}")
    loader.norm(model.norm, f"{inside}.norm")
    for number, block in enumerate(model.blocks):
        assert isinstance(block, ConditionedBlock)
        name = f"{inside}.layers.{number}"
        loader.dense(block.modulation, f"{name}.adaLN_modulation.1")
        loader.norm(block.attn_norm, f"{name}.attn.norm")
        loader.dense(block.qkv, f"{name}.attn.to_qkv")
        _scale_queries(block)
        loader.dense(block.proj, f"{name}.attn.to_out.0")
        loader.norm(block.mlp_norm, f"{name}.mlp.net.0")
        loader.dense(block.mlp.fc1, f"{name}.mlp.net.1")
        loader.dense(block.mlp.fc2, f"{name}.mlp.net.4")
    _projector(loader, model.pred_proj, "pred_proj")


@torch.no_grad()
def _scale_queries(block: ConditionedBlock) -> None:
    if not block.qkv.weight.is_meta:
        block.qkv.weight[:, : block.heads * block.head_dim] *= block.head_dim**-0.5


def _projector(loader: Loader, mlp: Mlp, name: str) -> None:
    """Linear, batch norm (folded into the Linear: its statistics are fixed), GELU, Linear."""
    fields = ("weight", "bias", "running_mean", "running_var")
    read = [loader.take(f"{name}.net.1.{field}") for field in fields]
    loader.dense(mlp.fc1, f"{name}.net.0")
    loader.dense(mlp.fc2, f"{name}.net.3")
    scale, shift, mean, variance = read
    bias = mlp.fc1.bias
    if scale is None or shift is None or mean is None or variance is None or bias is None:
        return
    if mlp.fc1.weight.is_meta or bias.is_meta or scale.shape != bias.shape:
        return
    factor = scale / torch.sqrt(variance + BATCH_NORM_EPS)
    with torch.no_grad():
        mlp.fc1.weight.mul_(factor)
        bias.copy_((bias - mean) * factor + shift)
