"""Tensors of a foreign checkpoint, taken one at a time; every one must find its place."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from jepa_edge.contract import InputError
from jepa_edge.model.rotary import head_order
from jepa_edge.model.vjepa.layers import Attention, Block, Dense, Mlp

SHOWN = 12
"""Names an error lists before it only counts them."""


class Source(Protocol):
    """Named tensors that are read when asked for."""

    where: str

    def names(self) -> set[str]:
        """All that is there."""

    def read(self, name: str) -> Tensor:
        """The tensor called `name`."""


class SafetensorsSource:
    """One or several safetensors files. Each read maps its file anew: no mapped page stays."""

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)
        self._file_of: dict[str, Path] = {}
        for file in _safetensors_files(folder):
            with _reading(file), safe_open(file, framework="pt") as opened:
                self._file_of |= dict.fromkeys(opened.keys(), file)

    def names(self) -> set[str]:
        """See `Source`."""
        return set(self._file_of)

    def read(self, name: str) -> Tensor:
        """See `Source`. Raises `InputError` when the file cannot be read."""
        file = self._file_of[name]
        with _reading(file), safe_open(file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor.clone()


class DictSource:
    """Tensors that are in memory, or mapped into it."""

    def __init__(self, tensors: dict[str, Tensor], where: str) -> None:
        self.where, self._tensors = where, tensors

    def names(self) -> set[str]:
        """See `Source`."""
        return set(self._tensors)

    def read(self, name: str) -> Tensor:
        """See `Source`."""
        return self._tensors[name]


def unpickled(path: Path) -> Any:  # noqa: ANN401  (whatever was saved)
    """What `torch.save` wrote to `path`, tensors mapped, no code run.

    Raises `InputError` for a file that is broken or holds anything but tensors and plain data.
    """
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it holds more than tensors and plain data, and loading that would "
            f"run code from the file ({_first_line(error)})"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{path} is no readable PyTorch checkpoint; it may be truncated, download it again "
            f"({_first_line(error)})"
        ) from error


class Loader:
    """Fills a model that has no memory yet, and keeps account of every name."""

    def __init__(self, source: Source, prefix: str = "") -> None:
        self.source, self.prefix = source, prefix
        self.left = source.names()
        self.missing: list[str] = []
        self.wrong: list[str] = []

    def has(self, name: str) -> bool:
        """Whether the source holds `name`."""
        return self.prefix + name in self.source.names()

    def take(self, name: str) -> Tensor | None:
        """The tensor in fp32, ticked off; None (and noted) if it is missing."""
        full = self.prefix + name
        if full not in self.left:
            self.missing.append(full)
            return None
        self.left.discard(full)
        return self.source.read(full).to(torch.float32)

    def skip(self, matches: Callable[[str], bool]) -> list[str]:
        """Ticks off what is knowingly not needed; returns the names."""
        found = sorted(name for name in self.left if matches(name.removeprefix(self.prefix)))
        self.left -= set(found)
        return found

    def put(self, module: nn.Module, attribute: str, name: str, tensor: Tensor | None) -> None:
        """Makes `tensor` the parameter `attribute` of `module`; a wrong shape is noted."""
        if tensor is None:
            return
        wanted = getattr(module, attribute)
        if wanted is None:
            self.wrong.append(f"{name} has no place in this configuration")
        elif tuple(wanted.shape) != tuple(tensor.shape):
            self.wrong.append(f"{name} is {list(tensor.shape)}, needs {list(wanted.shape)}")
        else:
            value = nn.Parameter(tensor.contiguous(), requires_grad=False)
            setattr(module, attribute, value)

    def norm(self, module: nn.Module, name: str) -> None:
        """A LayerNorm."""
        for attribute in ("weight", "bias"):
            full = f"{name}.{attribute}"
            self.put(module, attribute, full, self.take(full))

    def dense(self, module: nn.Module, name: str, add: Tensor | None = None) -> None:
        """A Linear, or a convolution without overlap; `add` is added to its bias."""
        assert isinstance(module, Dense)
        weight = self.take(f"{name}.weight")
        if weight is not None and weight.ndim < 2:
            self.wrong.append(f"{name}.weight is {list(weight.shape)}, needs two dimensions")
        elif weight is not None:
            self.put(module, "weight", f"{name}.weight", weight.flatten(1).T.contiguous())
        if module.bias is not None or self.has(f"{name}.bias"):
            bias = self.take(f"{name}.bias")
            added = bias if bias is None or add is None else bias + add
            self.put(module, "bias", f"{name}.bias", added)

    def mlp(self, module: nn.Module, name: str) -> None:
        """Both layers of an MLP."""
        assert isinstance(module, Mlp)
        self.dense(module.fc1, f"{name}.fc1")
        self.dense(module.fc2, f"{name}.fc2")

    def qkv(self, attention: Attention, parts: list[str], *, turned: bool = True) -> None:
        """Queries, keys, values (one name if they are stored together), scaled and ordered.

        Args:
            attention: to fill.
            parts: names of three Linears, or of one with three times the rows.
            turned: whether rotary positions will turn queries and keys.
        """
        self._qkv_part(attention, parts, "weight", turned=turned)
        if attention.qkv.bias is not None or self.has(f"{parts[0]}.bias"):
            self._qkv_part(attention, parts, "bias", turned=turned)

    def _qkv_part(self, attention: Attention, parts: list[str], kind: str, *, turned: bool) -> None:
        read = [self.take(f"{part}.{kind}") for part in parts]
        found = [tensor for tensor in read if tensor is not None]
        name = f"{', '.join(parts)} ({kind})"
        if len(found) < len(parts):
            return
        whole = torch.cat(found)
        heads, head_dim = attention.heads, attention.head_dim
        if whole.shape[0] != 3 * heads * head_dim:
            self.wrong.append(f"{name}: {whole.shape[0]} rows, needs {3 * heads * head_dim}")
            return
        rows = whole.view(3, heads, head_dim, -1)
        if turned:
            order = torch.from_numpy(head_order(head_dim))
            rows = torch.stack((rows[0][:, order], rows[1][:, order], rows[2]))
        rows = torch.cat((rows[:1] * head_dim**-0.5, rows[1:])).flatten(0, 2)
        self.put(attention.qkv, kind, name, rows.T if kind == "weight" else rows[:, 0])

    def split_qkv(self, block: nn.Module, heads: int, name: str) -> None:
        """Linears ``q_proj`` (scaled, into `block.q`), ``k_proj`` and ``v_proj`` (`block.kv`)."""
        q_layer, kv_layer = block.get_submodule("q"), block.get_submodule("kv")
        for kind in ("weight", "bias"):
            names = [f"{name}.{which}_proj.{kind}" for which in "qkv"]
            q, k, v = (self.take(each) for each in names)
            if q is None or k is None or v is None:
                continue
            scale = (q.shape[0] // heads) ** -0.5
            self.put(q_layer, kind, names[0], _in_out(q * scale))
            self.put(kv_layer, kind, ", ".join(names[1:]), _in_out(torch.cat((k, v))))

    def cross(self, attention: nn.Module, name: str, query: Tensor | None) -> None:
        """A cross-attention of one fixed `query [D]`: Linears ``q_proj``, ``k_proj``, ``v_proj``.

        Its projection is computed here, once.
        """
        assert isinstance(attention.kv, Dense)
        assert isinstance(attention.head_dim, int)
        names = {kind: [f"{name}.{w}_proj.{kind}" for w in "qkv"] for kind in ("weight", "bias")}
        read = {kind: [self.take(each) for each in found] for kind, found in names.items()}
        for kind, (_, k, v) in read.items():
            if k is not None and v is not None:
                self.put(attention.kv, kind, ", ".join(names[kind][1:]), _in_out(torch.cat((k, v))))
        weight, bias = read["weight"][0], read["bias"][0]
        if weight is None or bias is None or query is None:
            return
        if weight.shape[1:] != query.shape:
            self.wrong.append(f"{names['weight'][0]} does not take a query of {len(query)}")
            return
        asked = (weight @ query + bias) * attention.head_dim**-0.5
        self.put(attention, "asked", names["weight"][0], asked)

    def finish(self, what: str) -> None:
        """Raises `InputError` listing every tensor that is missing, unexpected or misshapen."""
        problems = _listed("missing", self.missing)
        problems += _listed("unexpected", sorted(self.left)) + _listed("misshapen", self.wrong)
        if problems:
            raise InputError(f"{self.source.where} does not fit {what}: " + "; ".join(problems))


def load_block(loader: Loader, block: nn.Module, name: str, qkv: list[str], proj: str) -> None:
    """One transformer block: norms, attention (`qkv` and `proj` names), MLP."""
    assert isinstance(block, Block)
    loader.norm(block.norm1, f"{name}.norm1")
    loader.qkv(block.attn, qkv)
    loader.dense(block.attn.proj, proj)
    loader.norm(block.norm2, f"{name}.norm2")
    loader.mlp(block.mlp, f"{name}.mlp")


def _in_out(tensor: Tensor) -> Tensor:
    return tensor.T if tensor.ndim == 2 else tensor


def _listed(kind: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    if not names:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"{kind}: {', '.join(names[:SHOWN])}{more}"]


def _safetensors_files(folder: Path) -> list[Path]:
    """The files that an index names, or the one file without an index."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{index} is no readable index: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"{index} names a file outside of its folder: {name!r}")
        if not (folder / name).is_file():
            raise InputError(f"{folder} lacks {name}, which its index names; download it again")
    return [folder / name for name in sorted(names)]


class _reading:  # noqa: N801  (a context manager)
    """Turns a broken safetensors file into a message."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        if not self.file.is_file():
            raise InputError(f"{self.file} does not exist")

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, SafetensorError | OSError):
            raise InputError(
                f"{self.file} is no readable safetensors file; it may be truncated, download it "
                f"again ({_first_line(error)})"
            ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
