"""Hugging Face folders (`config.json` + safetensors) of V-JEPA 2 → a model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import torch

from jepa_edge.contract import InputError
from jepa_edge.model.vjepa.activations import activation
from jepa_edge.model.vjepa.config import (
    DEFAULT_FRAMES,
    ClassifierConfig,
    ClipShape,
    MaskedPredictorConfig,
    TransformerConfig,
    VJepaConfig,
)
from jepa_edge.model.vjepa.layers import Block
from jepa_edge.model.vjepa.model import VJepa
from jepa_edge.model.vjepa.weights import (
    DictSource,
    Loader,
    SafetensorsSource,
    Source,
    load_block,
    unpickled,
)

CONFIG = "config.json"
MODEL_TYPE = "vjepa2"
PREPROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
POOLER_MLP_RATIO = 4.0
"""The pooler's MLPs do not follow `mlp_ratio` in `transformers`: they are always this wide."""


class HuggingFaceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of `VJEPA2Config` that change what is computed; the others do in training alone.

    Fields of `config.json` that are not here have no effect in `transformers` either.
    """

    model_type: str = MODEL_TYPE
    architectures: list[str] | None = None
    patch_size: int | list[int] = 16
    crop_size: int = 256
    frames_per_clip: int = 64
    tubelet_size: int = 2
    hidden_size: int = 1024
    in_chans: int = 3
    num_attention_heads: int = 16
    num_hidden_layers: int = 24
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6
    qkv_bias: bool = True
    hidden_act: str = "gelu"
    num_pooler_layers: int = 3
    pred_hidden_size: int = 384
    pred_num_attention_heads: int = 12
    pred_num_hidden_layers: int = 12
    pred_num_mask_tokens: int = 10
    pred_mlp_ratio: float = 4.0
    num_labels: int | None = None
    id2label: dict[str, str] | None = None
    use_SiLU: bool = False  # noqa: N815  (its name there)


def is_hugging_face(path: Path) -> bool:
    """Whether `path` is a folder in Hugging Face's layout (of any model)."""
    return path.is_dir() and (path / CONFIG).is_file()


def load_hugging_face(folder: Path, shape: ClipShape) -> VJepa:
    """The model in `folder`, on the CPU in fp32, with one copy of its weights in memory.

    Raises `InputError` for another architecture, an unsupported field, broken files, or tensors
    that are missing, unexpected or misshapen (all are listed).
    """
    fields = read_config(folder)
    source = _source(folder)
    names = source.names()
    prefix = "vjepa2." if any(name.startswith("vjepa2.") for name in names) else ""
    config = _config(folder, fields, names, shape)
    with torch.device("meta"):
        model = VJepa(config)
    _fill(model, Loader(source, prefix))
    return model.eval().requires_grad_(requires_grad=False)


def read_config(folder: Path) -> HuggingFaceConfig:
    """The checked fields of ``config.json``. Raises `InputError`."""
    file = folder / CONFIG
    try:
        raw = json.loads(file.read_bytes())
        kind = raw.get("model_type")
    except (ValueError, AttributeError) as error:
        raise InputError(f"{file} is no readable JSON object: {error}") from error
    if kind != MODEL_TYPE:
        raise InputError(
            f"{file} describes a model of type {kind!r}; supported folders hold {MODEL_TYPE!r} "
            "(VJEPA2Model, VJEPA2ForVideoClassification)"
        )
    try:
        fields = msgspec.convert(raw, HuggingFaceConfig)
    except msgspec.ValidationError as error:
        raise InputError(f"{file}: {error}") from error
    _refuse(fields, file)
    return fields


def _refuse(fields: HuggingFaceConfig, file: Path) -> None:
    """Raises `InputError` for values that no such model can have, or that have no meaning here."""
    activation(fields.hidden_act)
    if fields.use_SiLU:
        raise InputError(f"{file}: use_SiLU (gated MLPs) is not supported")
    if fields.in_chans != 3:
        raise InputError(f"{file}: in_chans {fields.in_chans}; a camera gives 3 channels")
    positive = (
        "crop_size", "tubelet_size", "hidden_size", "num_attention_heads", "num_hidden_layers",
        "frames_per_clip", "pred_hidden_size", "pred_num_attention_heads", "pred_num_mask_tokens",
    )  # fmt: skip
    for name in positive:
        if getattr(fields, name) < 1:
            raise InputError(f"{file}: {name} is {getattr(fields, name)}, needs to be positive")


def _source(folder: Path) -> Source:
    weights, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if weights.is_file() or (folder / "model.safetensors.index.json").is_file():
        return SafetensorsSource(folder)
    if pickled.is_file():
        found = unpickled(pickled)
        if isinstance(found, dict) and all(torch.is_tensor(value) for value in found.values()):
            return DictSource(found, str(pickled))
        raise InputError(f"{pickled} is no dictionary of tensors")
    raise InputError(
        f"{folder} holds no weights: model.safetensors, model.safetensors.index.json or "
        "pytorch_model.bin"
    )


def _config(
    folder: Path, fields: HuggingFaceConfig, names: set[str], shape: ClipShape
) -> VJepaConfig:
    predictor = any("predictor." in name for name in names)
    classifier = None
    if any(name.startswith(("classifier.", "pooler.")) for name in names):
        labels = _labels(fields)
        hidden = int(fields.hidden_size * POOLER_MLP_RATIO)
        classifier = ClassifierConfig(
            layers=fields.num_pooler_layers, mlp_dim=hidden, labels=labels
        )
    mean, std = _normalization(folder)
    frames = max(min(fields.frames_per_clip, DEFAULT_FRAMES), fields.tubelet_size)
    return VJepaConfig(
        name=re.sub(r"[^\w.-]+", "-", folder.resolve().name) or "vjepa2",
        family="2.0",
        encoder=_transformer(fields),
        predictor=_predictor(fields) if predictor else None,
        classifier=classifier,
        patch=_patch(fields, folder),
        tubelet=fields.tubelet_size,
        channels=fields.in_chans,
        frames=frames - frames % fields.tubelet_size if shape.frames is None else shape.frames,
        height=shape.height or fields.crop_size,
        width=shape.width or fields.crop_size,
        fps=shape.fps,
        horizon=shape.horizon,
        mean=mean,
        std=std,
    )


def _transformer(fields: HuggingFaceConfig) -> TransformerConfig:
    return TransformerConfig(
        dim=fields.hidden_size,
        depth=fields.num_hidden_layers,
        heads=fields.num_attention_heads,
        mlp_dim=int(fields.hidden_size * fields.mlp_ratio),
        activation=fields.hidden_act,
        qkv_bias=fields.qkv_bias,
        norm_eps=fields.layer_norm_eps,
    )


def _predictor(fields: HuggingFaceConfig) -> MaskedPredictorConfig:
    return MaskedPredictorConfig(
        blocks=TransformerConfig(
            dim=fields.pred_hidden_size,
            depth=fields.pred_num_hidden_layers,
            heads=fields.pred_num_attention_heads,
            mlp_dim=int(fields.pred_hidden_size * fields.pred_mlp_ratio),
            activation=fields.hidden_act,
            qkv_bias=fields.qkv_bias,
            norm_eps=fields.layer_norm_eps,
        ),
        mask_tokens=fields.pred_num_mask_tokens,
        out_dim=fields.hidden_size,
    )


def _patch(fields: HuggingFaceConfig, folder: Path) -> int:
    size = fields.patch_size
    if isinstance(size, int):
        return size
    if len(set(size)) != 1:
        raise InputError(f"{folder / CONFIG}: patch_size {size}; patches must be square")
    return size[0]


def _labels(fields: HuggingFaceConfig) -> list[str]:
    if fields.id2label:
        by_number = {int(key): label for key, label in fields.id2label.items() if key.isdigit()}
        if sorted(by_number) == list(range(len(fields.id2label))):
            return [by_number[number] for number in range(len(by_number))]
        raise InputError("config.json: id2label does not number its labels from 0")
    return [f"LABEL_{number}" for number in range(fields.num_labels or 2)]


def _normalization(
    folder: Path,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation of the folder's preprocessor; ImageNet's, as published, without one."""
    for file in (folder / name for name in PREPROCESSORS):
        if not file.is_file():
            continue
        try:
            raw: dict[str, Any] = json.loads(file.read_bytes())
            if raw.get("do_normalize", True) is False:
                return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
            three = tuple[float, float, float]
            mean = msgspec.convert(raw.get("image_mean", [0.485, 0.456, 0.406]), three)
            std = msgspec.convert(raw.get("image_std", [0.229, 0.224, 0.225]), three)
        except (ValueError, AttributeError, msgspec.ValidationError) as error:
            raise InputError(f"{file} cannot be read: {error}") from error
        return mean, std
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _fill(model: VJepa, loader: Loader) -> None:
    encoder = model.encoder
    loader.dense(encoder.patches.embed, "encoder.embeddings.patch_embeddings.proj")
    for number, block in enumerate(encoder.blocks):
        _block(loader, block, f"encoder.layer.{number}")
    loader.norm(encoder.norms[0], "encoder.layernorm")
    if model.predictor is not None:
        predictor = model.predictor
        loader.dense(predictor.embed, "predictor.embeddings.predictor_embeddings")
        name = "predictor.embeddings.mask_tokens"
        masks = loader.take(name)
        loader.put(predictor, "mask_tokens", name, None if masks is None else masks.squeeze(1, 2))
        for number, block in enumerate(predictor.blocks):
            _block(loader, block, f"predictor.layer.{number}")
        loader.norm(predictor.norm, "predictor.layernorm")
        loader.dense(predictor.proj, "predictor.proj")
    if model.classifier is not None:
        loader.prefix = ""
        _fill_classifier(model, loader)
    loader.finish("its config.json")


def _block(loader: Loader, block: torch.nn.Module, name: str) -> None:
    at = f"{name}.attention"
    load_block(loader, block, name, [f"{at}.query", f"{at}.key", f"{at}.value"], f"{at}.proj")


def _fill_classifier(model: VJepa, loader: Loader) -> None:
    head = model.classifier
    assert head is not None
    query = loader.take("pooler.query_tokens")
    query = None if query is None else query.flatten()
    loader.put(head, "query", "pooler.query_tokens", query)
    for number, block in enumerate(head.blocks):
        name = f"pooler.self_attention_layers.{number}"
        at = f"{name}.self_attn"
        assert isinstance(block, Block)
        loader.norm(block.norm1, f"{name}.layer_norm1")
        parts = [f"{at}.{which}_proj" for which in "qkv"]
        loader.qkv(block.attn, parts, turned=False)
        loader.dense(block.attn.proj, f"{at}.out_proj")
        loader.norm(block.norm2, f"{name}.layer_norm2")
        loader.mlp(block.mlp, f"{name}.mlp")
    name = "pooler.cross_attention_layer"
    loader.norm(head.norm1, f"{name}.layer_norm1")
    loader.cross(head.cross, f"{name}.cross_attn", query)
    loader.norm(head.norm2, f"{name}.layer_norm2")
    loader.mlp(head.mlp, f"{name}.mlp")
    loader.dense(head.linear, "classifier")
