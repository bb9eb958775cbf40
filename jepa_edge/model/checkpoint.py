"""Checkpoints: one safetensors file whose metadata holds the model's configuration. No pickle."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, ExitStack
from importlib import resources
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jepa_edge.bundle import file_sha256
from jepa_edge.contract import InputError, JepaEdgeError, WrongUseError
from jepa_edge.model.blocks import Attention
from jepa_edge.model.config import ModelConfig
from jepa_edge.model.jepa import JEPA, meta_model
from jepa_edge.model.lewm import LeWm
from jepa_edge.model.lewm_import import WEIGHTS, lewm_weights, load_lewm
from jepa_edge.model.rotary import head_order
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.model.vjepa.hugging_face import is_hugging_face, load_hugging_face
from jepa_edge.model.vjepa.meta import load_meta
from jepa_edge.model.vjepa.model import VJepa

AnyModel = JEPA | VJepa | LeWm
FORMAT = "jepa_edge/2"
PAIRED = "jepa_edge/1"
"""Before 2, queries and keys had the two channels of a rotary pair side by side."""
BUILTIN = "builtin:"
META_SUFFIXES = (".pt", ".pth", ".tar")
MODEL_FILE = "model.safetensors"


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A loaded model, on the CPU in fp32 and in eval mode, and where it came from."""

    model: AnyModel
    source: str
    sha256: str


def load_checkpoint(source: str, shape: ClipShape | None = None) -> Checkpoint:
    """The model at `source`.

    Args:
        source: ``builtin:NAME``, a ``.safetensors`` file, a training run's folder, a Hugging
            Face folder of V-JEPA 2, a ``.pt`` file of V-JEPA 2, 2.1 or 2-AC, or a LeWM checkpoint.
        shape: of the clips an imported model will see; the models of this project have their own.

    Raises:
        WrongUseError: an unknown builtin; `shape` for a model that has its own.
        InputError: no such file, not a checkpoint of a known kind, or weights that do not fit.
    """
    path = Path(source)
    if (lewm := _lewm(path)) is not None:
        world = load_lewm(path, lewm, shape or ClipShape())
        file = path / WEIGHTS if path.is_dir() else path
        return Checkpoint(model=world, source=source, sha256=file_sha256(file))
    if is_hugging_face(path):
        imported = load_hugging_face(path, shape or ClipShape())
        return Checkpoint(model=imported, source=source, sha256=folder_sha256(path))
    if path.is_file() and path.suffix in META_SUFFIXES:
        imported = load_meta(path, shape or ClipShape())
        return Checkpoint(model=imported, source=source, sha256=file_sha256(path))
    if shape is not None:
        raise WrongUseError(
            f"{source} has its own clip shape; --frames, --size, --fps are for imported checkpoints"
        )
    with ExitStack() as stack:
        if source.startswith(BUILTIN):
            path = stack.enter_context(_builtin(source.removeprefix(BUILTIN)))
        else:
            path = path / MODEL_FILE if path.is_dir() else path
        return Checkpoint(model=_load(path), source=source, sha256=file_sha256(path))


def is_foreign(source: str) -> bool:
    """Whether `source` is a checkpoint of another project, that is imported."""
    path = Path(source)
    known = path.is_file() and path.suffix in META_SUFFIXES
    return known or is_hugging_face(path) or (path.is_dir() and (path / WEIGHTS).is_file())


def _lewm(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a LeWM checkpoint, if that is what `path` is."""
    file = path.is_file() and path.suffix in META_SUFFIXES
    return lewm_weights(path) if file or (path / WEIGHTS).is_file() else None


def folder_sha256(folder: Path) -> str:
    """One hash of the configuration and the weights in a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".safetensors", ".bin"):
            digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def builtin_names() -> list[str]:
    """Names of the checkpoints that come with the package."""
    files = (resources.files("jepa_edge") / "assets").iterdir()
    return sorted(
        f.name.removesuffix(".safetensors") for f in files if f.name.endswith(".safetensors")
    )


def save_checkpoint(model: JEPA, path: Path) -> None:
    """Writes weights and configuration to `path`, whole or not at all."""
    config = msgspec.json.encode(model.config).decode()
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    part = path.with_name(path.name + ".part")
    save_file(weights, part, metadata={"format": FORMAT, "config": config})
    part.replace(path)


def _builtin(name: str) -> AbstractContextManager[Path]:
    if name not in builtin_names():
        raise WrongUseError(
            f"unknown checkpoint builtin:{name}; known: {', '.join(builtin_names())}"
        )
    return resources.as_file(resources.files("jepa_edge") / "assets" / f"{name}.safetensors")


def _load(path: Path) -> JEPA:
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}; give a .safetensors file, a training run's folder, or "
            f"one of: {', '.join(BUILTIN + name for name in builtin_names())}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            config = _config(metadata, path)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no readable safetensors file: {error}") from error
    if metadata["format"] == PAIRED:
        _even_channels_first(weights, config)
    return model_from_weights(config, weights, where=str(path))


def _even_channels_first(weights: dict[str, Tensor], config: ModelConfig) -> None:
    """Brings queries and keys, which were kept in pairs, into `head_order`."""
    for layer, module in meta_model(config).named_modules():
        for kind in ("weight", "bias"):
            rows = weights.get(f"{layer}.qkv.{kind}")
            if not isinstance(module, Attention) or rows is None:
                continue
            width = len(rows) // 3
            order = torch.from_numpy(head_order(width // module.heads))
            heads = torch.arange(0, 2 * width, len(order))[:, None]
            rows[: 2 * width] = rows[: 2 * width][(heads + order).flatten()]


def _config(metadata: dict[str, str], path: Path) -> ModelConfig:
    if metadata.get("format") not in (FORMAT, PAIRED):
        raise InputError(f"{path} is not a jepa_edge checkpoint (its metadata lacks {FORMAT!r})")
    try:
        return msgspec.json.decode(metadata["config"], type=ModelConfig)
    except (msgspec.MsgspecError, JepaEdgeError, KeyError) as error:
        raise InputError(f"{path} has a configuration that cannot be read: {error}") from error


def model_from_weights(config: ModelConfig, weights: dict[str, Tensor], *, where: str) -> JEPA:
    """The model with `weights`, not copied. Raises `InputError` listing every key that differs."""
    model = meta_model(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    wrong = [f"missing {name}" for name in expected.keys() - found.keys()]
    wrong += [f"unexpected {name}" for name in found.keys() - expected.keys()]
    wrong += [
        f"{name} is {found[name]}, needs {expected[name]}"
        for name in expected.keys() & found.keys()
        if found[name] != expected[name]
    ]
    if wrong:
        raise InputError(f"{where} does not fit preset {config.name}: " + "; ".join(sorted(wrong)))
    model.load_state_dict(weights, assign=True)
    return model.float().eval().requires_grad_(requires_grad=False)
