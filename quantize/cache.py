"""Finished work by the hash of all that it came from: what was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np

from jepa_edge.contract import Tensors

Value = TypeVar("Value")
LIBRARIES = ("nncf", "openvino", "onnx", "onnxruntime", "numpy")
KEPT_MIB = 4096
DONE = "done"


class Cache:
    """Entries under ``JEPA_EDGE_CACHE``, else ``XDG_CACHE_HOME/jepa-edge``, ``~/.cache/jepa-edge``.

    An entry is written aside and renamed, so it is there whole or not at all; the oldest leave when
    all together outgrow `KEPT_MIB`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(os.environ.get("JEPA_EDGE_CACHE") or Path(home) / "jepa-edge")
        self.folder = folder or root / "quantize"
        self.hits = 0

    def value(self, key: str, kind: type[Value], make: Callable[[], Value]) -> Value:
        """What `make` gives, as JSON of type `kind`; from an earlier run where there was one."""

        def write(folder: Path) -> None:
            (folder / DONE).write_bytes(msgspec.json.encode(make()))

        return msgspec.json.decode((self.entry(key, write) / DONE).read_bytes(), type=kind)

    def entry(self, key: str, write: Callable[[Path], None]) -> Path:
        """The folder that `write` filled, now or in an earlier run."""
        found = self.folder / key
        if found.is_dir():
            self.hits += 1
            os.utime(found)
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        try:
            write(part)
            try:
                part.rename(found)
            except OSError:  # somebody else was faster with the same
                if not found.is_dir():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        self._prune()
        return found

    def _prune(self) -> None:
        entries = sorted(self.folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
        sizes = {entry: sum(file.stat().st_size for file in entry.rglob("*")) for entry in entries}
        total = sum(sizes.values())
        for entry in entries[:-1]:
            if total <= KEPT_MIB * 2**20:
                return
            total -= sizes[entry]
            shutil.rmtree(entry, ignore_errors=True)


def key_of(*parts: object) -> str:
    """One key for all that a result depends on, this package's own code and libraries included.

    Arrays and tensors count by their bytes, structures by their JSON, the rest by its text.
    """
    digest = hashlib.sha256(_versions().encode())
    for part in parts:
        digest.update(b"|")
        _add(digest, part)
    return digest.hexdigest()[:32]


def _add(digest: hashlib._Hash, part: object) -> None:
    if isinstance(part, np.ndarray):
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, dict):
        for name in sorted(part):
            digest.update(str(name).encode())
            _add(digest, part[name])
    elif isinstance(part, list | tuple):
        for one in part:
            digest.update(b",")
            _add(digest, one)
    elif isinstance(part, msgspec.Struct):
        _add(digest, msgspec.structs.asdict(part))
    else:
        digest.update(part if isinstance(part, bytes) else str(part).encode())


@cache
def _versions() -> str:
    found = [_version(name) for name in LIBRARIES]
    own = hashlib.sha256()
    for room in ("jepa_edge.quantize", "jepa_edge.runtimes"):
        for file in sorted(resources.files(room).iterdir(), key=lambda one: one.name):
            if file.name.endswith(".py"):
                own.update(file.read_bytes())
    return "; ".join([*found, own.hexdigest()])


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def digest_of(tensors: Iterable[Tensors]) -> str:
    """One hash of many calls' tensors."""
    return key_of(list(tensors))
