"""Meta's own ``.pt`` files of V-JEPA 2, 2.1 and 2-AC → a model, told apart by what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from jepa_edge.contract import InputError
from jepa_edge.model.vjepa.action import ActionPredictor
from jepa_edge.model.vjepa.config import (
    DEFAULT_FRAMES,
    ActionPredictorConfig,
    ClipShape,
    Family,
    MaskedPredictorConfig,
    TransformerConfig,
    VJepaConfig,
)
from jepa_edge.model.vjepa.encoder import Encoder
from jepa_edge.model.vjepa.heads import DeepEmbed, MaskedPredictor
from jepa_edge.model.vjepa.layers import Dense
from jepa_edge.model.vjepa.model import VJepa
from jepa_edge.model.vjepa.weights import DictSource, Loader, load_block, unpickled

ENCODERS = ("target_encoder", "ema_encoder", "encoder")
"""Where the weights for inference are, best first: the teacher's, as the published code loads."""

HEADS = {1280: 16}
"""Encoders whose heads are not 64 wide (ViT-H)."""

LEVELS_48 = [11, 23, 37, 47]
"""The one depth whose levels are not evenly spread (ViT-G of V-JEPA 2.1)."""

PREDICTOR_HEADS, ACTION_HEADS = 12, 16
PRETRAINED_PX = 256
CROP_PX = {"2.0": 256, "2.1": 384, "2-AC": 256}
Weights = dict[str, Tensor]


def load_meta(path: Path, shape: ClipShape) -> VJepa:
    """The model in a ``.pt`` file, on the CPU in fp32.

    Raises `InputError` for a file that is broken, would run code, is no V-JEPA 2 checkpoint, or
    holds tensors that are missing, unexpected or misshapen (all are listed).
    """
    parts = unpickled(path)
    if not isinstance(parts, dict):
        raise InputError(f"{path} holds {type(parts).__name__}, not the parts of a checkpoint")
    encoder = _encoder_weights(parts, path)
    predictor = _weights(parts.get("predictor"))
    config = _config(path, encoder, predictor, shape)
    with torch.device("meta"):
        model = VJepa(config)
    loader = Loader(DictSource(encoder, f"{path} (encoder)"))
    _fill_encoder(model.encoder, loader, encoder)
    loader.finish("V-JEPA " + config.family)
    if predictor:
        loader = Loader(DictSource(predictor, f"{path} (predictor)"))
        if model.predictor is not None:
            _fill_predictor(model.predictor, loader, predictor)
        if model.action is not None:
            _fill_action(model.action, loader)
        loader.finish("V-JEPA " + config.family)
    return model.eval().requires_grad_(requires_grad=False)


def _encoder_weights(parts: dict[str, object], path: Path) -> Weights:
    for name in ENCODERS:
        found = _weights(parts.get(name))
        if "patch_embed.proj.weight" in found:
            return found
    raise InputError(
        f"{path} is no V-JEPA 2 checkpoint: it has none of {', '.join(ENCODERS)} with a patch "
        f"embedding in it; it holds: {', '.join(sorted(map(str, parts))[:12]) or 'nothing'}"
    )


def _weights(part: object) -> Weights:
    """Tensors by name, without the wrappers' prefixes."""
    if not isinstance(part, dict):
        return {}
    tensors = {str(name): value for name, value in part.items() if torch.is_tensor(value)}
    return {re.sub(r"^(module\.|backbone\.)+", "", name): t for name, t in tensors.items()}


def _config(path: Path, encoder: Weights, predictor: Weights, shape: ClipShape) -> VJepaConfig:
    patch_weight = encoder["patch_embed.proj.weight"]
    if patch_weight.ndim != 5 or patch_weight.shape[-1] != patch_weight.shape[-2]:
        raise InputError(f"{path}: its patch embedding {list(patch_weight.shape)} reads no clips")
    dim, channels, tubelet, patch = patch_weight.shape[:4]
    if channels != 3:
        raise InputError(f"{path}: {channels} channels; a camera gives 3 channels")
    newer = any(name.startswith("norms_block.") for name in encoder)
    acts = "action_encoder.weight" in predictor
    family: Family = "2-AC" if acts else "2.1" if newer else "2.0"
    blocks = _transformer(encoder, "blocks", dim, HEADS.get(dim, max(dim // 64, 1)))
    crop = CROP_PX[family]
    frames = 2 if acts else DEFAULT_FRAMES
    return VJepaConfig(
        name=path.stem,
        family=family,
        encoder=blocks,
        predictor=_masked_config(predictor, dim) if predictor and not acts else None,
        action=_action_config(predictor) if acts else None,
        patch=patch,
        tubelet=tubelet,
        rotary="interleaved" if newer else "tiled",
        rotary_grid=PRETRAINED_PX // patch if newer else None,
        image_patches="patch_embed_img.proj.weight" in encoder,
        levels=_levels(encoder, predictor, blocks.depth) if newer else [],
        frames=frames if shape.frames is None else shape.frames,
        height=shape.height or crop,
        width=shape.width or crop,
        fps=shape.fps,
        horizon=shape.horizon,
    )


def _transformer(weights: Weights, name: str, dim: int, heads: int) -> TransformerConfig:
    depth = 1 + max((int(n.split(".")[1]) for n in weights if n.startswith(f"{name}.")), default=-1)
    first = weights.get(f"{name}.0.mlp.fc1.weight")
    return TransformerConfig(
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=4 * dim if first is None else first.shape[0],
        qkv_bias=depth == 0 or f"{name}.0.attn.qkv.bias" in weights,
    )


def _levels(encoder: Weights, predictor: Weights, depth: int) -> list[int]:
    """Layers whose normed outputs are needed: all levels if the predictor reads them all."""
    count = _numbered(encoder, "norms_block")
    if depth == 48 and count == 4:
        levels = LEVELS_48
    else:
        levels = [(k + 1) * depth // count - 1 for k in range(count)]
    return levels if "predictor_embed.0.weight" in predictor else levels[-1:]


def _numbered(weights: Iterable[str], name: str) -> int:
    found = [n.split(".")[1] for n in weights if n.startswith(f"{name}.")]
    return 1 + max(int(number) for number in found if number.isdigit())


def _masked_config(weights: Weights, dim: int) -> MaskedPredictorConfig:
    deep = weights.get("predictor_embed.0.weight")
    width = _rows(weights, "predictor_norm.weight")
    heads = PREDICTOR_HEADS if width % PREDICTOR_HEADS == 0 else max(width // 32, 1)
    return MaskedPredictorConfig(
        blocks=_transformer(weights, "predictor_blocks", width, heads),
        mask_tokens=_numbered([*weights, "mask_tokens.0"], "mask_tokens"),
        levels=1 if deep is None else deep.shape[1] // dim,
        out_dim=_rows(weights, "predictor_proj.weight"),
        context_head="predictor_proj_context.weight" in weights,
    )


def _action_config(weights: Weights) -> ActionPredictorConfig:
    width = _rows(weights, "predictor_norm.weight")
    heads = ACTION_HEADS if width % ACTION_HEADS == 0 else max(width // 64, 1)
    return ActionPredictorConfig(
        blocks=_transformer(weights, "predictor_blocks", width, heads),
        action_dim=weights["action_encoder.weight"].shape[1],
    )


def _rows(weights: Weights, name: str) -> int:
    if name not in weights:
        raise InputError(f"the checkpoint's predictor lacks {name}")
    return weights[name].shape[0]


def _fill_encoder(encoder: Encoder, loader: Loader, weights: Weights) -> None:
    for tokenizer, name, modality in (
        (encoder.patches, "patch_embed", "video_mod_embed"),
        (encoder.image_patches, "patch_embed_img", "img_mod_embed"),
    ):
        if tokenizer is not None:
            known = modality in weights
            added = loader.take(modality) if known else None
            loader.dense(
                tokenizer.embed, f"{name}.proj", None if added is None else added.flatten()
            )
    for number, block in enumerate(encoder.blocks):
        _block(loader, block, f"blocks.{number}")
    if encoder.config.family == "2.1" or encoder.config.levels:
        total = _numbered(weights, "norms_block")
        for place, norm in enumerate(encoder.norms, start=total - len(encoder.norms)):
            loader.norm(norm, f"norms_block.{place}")
        unused = tuple(f"norms_block.{k}." for k in range(total - len(encoder.norms)))
        loader.skip(lambda name: name.startswith((*unused, "norm.")))
    else:
        loader.norm(encoder.norms[0], "norm")
    loader.skip(lambda name: name == "pos_embed")  # of an older design; rotary replaced it


def _fill_predictor(predictor: MaskedPredictor, loader: Loader, weights: Weights) -> None:
    modality = None
    if "video_mod_embed" in weights:
        modality = _flat(loader.take("video_mod_embed"))
        loader.skip(lambda name: name == "img_mod_embed")
    if isinstance(predictor.embed, DeepEmbed):
        loader.dense(predictor.embed.first, "predictor_embed.0")
        loader.dense(predictor.embed.second, "predictor_embed.2", modality)
    else:
        loader.dense(predictor.embed, "predictor_embed", modality)
    read = [loader.take(f"mask_tokens.{k}") for k in range(predictor.spec.mask_tokens)]
    masks = [mask.flatten() for mask in read if mask is not None]
    if len(masks) == len(read):
        stacked = torch.stack(masks)
        stacked = stacked if modality is None else stacked + modality
        loader.put(predictor, "mask_tokens", "mask_tokens", stacked)
    for number, block in enumerate(predictor.blocks):
        _block(loader, block, f"predictor_blocks.{number}")
    loader.norm(predictor.norm, "predictor_norm")
    loader.dense(predictor.proj, "predictor_proj")
    if predictor.context_proj is not None:
        loader.dense(predictor.context_proj, "predictor_proj_context")
    loader.skip(lambda name: name == "predictor_pos_embed")


def _fill_action(predictor: ActionPredictor, loader: Loader) -> None:
    loader.dense(predictor.embed, "predictor_embed")
    loader.dense(predictor.action, "action_encoder")
    loader.dense(predictor.state, "state_encoder")
    if isinstance(predictor.extrinsics, Dense):
        loader.dense(predictor.extrinsics, "extrinsics_encoder")
    else:
        loader.skip(lambda name: name.startswith("extrinsics_encoder."))  # never used in 2-AC
    for number, block in enumerate(predictor.blocks):
        _block(loader, block, f"predictor_blocks.{number}")
    loader.norm(predictor.norm, "predictor_norm")
    loader.dense(predictor.proj, "predictor_proj")


def _block(loader: Loader, block: torch.nn.Module, name: str) -> None:
    load_block(loader, block, name, [f"{name}.attn.qkv"], f"{name}.attn.proj")


def _flat(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.flatten()
