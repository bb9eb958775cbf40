"""The bundle: the one contract between the rooms. Write it whole, read it verified.

A bundle is a folder ``<name>.jepa/`` (or the same as one ``.tar.zst``): a ``manifest.json``, and a
folder of graph files per precision. Every file carries its SHA-256; a bundle is written to a
temporary folder and renamed when complete, so a half-written one never has the final name.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import zstandard

from jepa_edge.contract import CheckFailedError, InputError, Senses, TensorSpec, WrongUseError

SCHEMA_MAJOR = 1
SCHEMA_MINOR = 0
MANIFEST = "manifest.json"

EngineName = Literal["openvino", "onnxruntime", "tensorrt"]
Hint = Literal["f32", "f16", "bf16"]


class OutputParity(msgspec.Struct, frozen=True, kw_only=True):
    """How close one output is to the fp32 source model, over every token of every parity clip."""

    cosine_mean: float
    cosine_p1: float
    cosine_worst: float
    relative_l2: float


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried on a graph: passed, failed, or honestly not run on this machine."""

    name: str
    status: Literal["passed", "failed", "not run here"]
    detail: str = ""


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """One graph file of one precision, and what was measured of it."""

    path: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    inference_precision: Hint | None = None
    """Where it differs from that of the precision."""
    parity: dict[str, OutputParity] = {}
    checks: list[Check] = []
    precision: str | None = None
    """What it really is in, where that is not what it is listed under: a check says why."""


def base_name(graph: str) -> str:
    """The graph that ``NAME@SIZE`` computes for several robots at once; any other is its own."""
    return graph.partition("@")[0]


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """All graphs of one precision, with the hint the engine needs to really compute in it."""

    graphs: dict[str, Graph]
    batched: dict[str, Graph] = {}
    """By ``NAME@SIZE``: graphs that compute so many calls at once; only a server uses them."""
    inference_precision: Hint = "f32"
    calibration: list[str] = []


class Grounded(msgspec.Struct, frozen=True, kw_only=True):
    """A pooled dimension that was trained to be a quantity: its value is ``mean + std * latent``.

    Being at the goal means having its value if `goal`; a robot keeps clear of values below
    `at_least`.
    """

    name: str
    mean: float
    std: float
    goal: bool = False
    at_least: float | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime must know of the model, so that it never needs the model's code."""

    name: str
    window: int
    tokens_per_step: int
    latent_dim: int
    pooled_dim: int
    horizon: int
    attention: Literal["causal", "bidirectional"]
    history: int = 0
    action_dim: int = 0
    rollout_horizon: int = 0
    candidates: int = 0
    parameters: int = 0
    grounded: list[Grounded] = []
    """What the first dimensions of a pooled latent mean."""
    effort: float = 0.002
    """What a planner weighs actions with: energy per squared unit (see `PlannerConfig`)."""
    caution: float = 1.0
    """And per metre that a predicted clearance lacks."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bundle comes from: enough to make it again."""

    source: str
    source_sha256: str
    versions: dict[str, str] = {}
    parity_clips: list[str] = []


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The typed content of ``manifest.json``; fields it does not know are kept when rewritten."""

    schema: str = f"{SCHEMA_MAJOR}.{SCHEMA_MINOR}"
    name: str
    target: str
    engine: EngineName
    model: ModelFacts
    model_config: dict[str, Any] = {}
    senses: Senses
    precisions: dict[str, Precision]
    default_precision: str
    provenance: Provenance
    golden: str | None = None
    files: dict[str, str] = {}

    def precision(self, name: str | None) -> Precision:
        """The precision called `name`, or the default one. Raises `WrongUseError` if unknown."""
        chosen = name or self.default_precision
        if chosen not in self.precisions:
            raise WrongUseError(
                f"bundle {self.name} has no precision {chosen!r}; it has: "
                f"{', '.join(self.precisions)}"
            )
        return self.precisions[chosen]


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A verified bundle on disk."""

    folder: Path
    manifest: Manifest

    def path(self, inside: str) -> Path:
        """The file at `inside`, which the manifest lists and `open_bundle` verified."""
        return self.folder / inside


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """The bundle in folder `path`, every file checked against its hash.

    Raises:
        InputError: no bundle there, or a manifest that cannot be read or is from the future.
        CheckFailedError: a file is missing, changed, or outside of the bundle.
    """
    if path.is_file() and path.name.endswith(".tar.zst"):
        raise InputError(
            f"{path} is packed; unpack it first with: jepa-edge inspect {path} --unpack FOLDER"
        )
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f"no bundle at {path}: {file} does not exist (jepa-edge export makes one)")
    bundle = Bundle(folder=path, manifest=_manifest_from_bytes(file.read_bytes(), file))
    if verify:
        _verify(bundle)
    return bundle


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle at `path`, folder or ``.tar.zst``; a packed one lives in a temporary folder."""
    if not (path.is_file() and path.name.endswith(".tar.zst")):
        yield open_bundle(path)
        return
    with tempfile.TemporaryDirectory(prefix="jepa-edge-") as folder:
        unpack(path, Path(folder) / "bundle")
        yield open_bundle(Path(folder) / "bundle")


@contextmanager
def new_bundle(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `path` when the block ends, and vanishes if it fails.

    Raises `WrongUseError` if `path` is there and is no bundle (so nothing else is overwritten).
    """
    if path.exists() and not (overwrite and (path / MANIFEST).is_file()):
        raise WrongUseError(f"{path} is there and is not a bundle; choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(path)
    prefix = f".{path.name}.{os.getpid()}-"
    part = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    part.chmod(0o755)
    try:
        yield part
        if not (part / MANIFEST).is_file():
            raise RuntimeError("new_bundle: the block ended without a manifest")
        _replace_folder(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_manifest(folder: Path, manifest: Manifest, *, keep: bytes | None = None) -> Manifest:
    """Hashes every file in `folder` and writes the manifest; returns it as written.

    `keep` is the manifest this one was made from: fields unknown to this version stay.
    """
    files = {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != MANIFEST
    }
    whole = msgspec.structs.replace(manifest, files=files)
    fields = msgspec.to_builtins(whole)
    if keep is not None:
        fields = _merged(msgspec.json.decode(keep), fields)
    text = msgspec.json.format(msgspec.json.encode(fields), indent=1)
    (folder / MANIFEST).write_bytes(text + b"\n")
    return whole


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def pack(bundle: Bundle, path: Path) -> None:
    """Writes the bundle as one ``.tar.zst``, byte for byte the same each time."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        info.mode = 0o644
        return info

    part = path.with_name(f".{path.name}.part")
    try:
        with (
            part.open("wb") as raw,
            zstandard.ZstdCompressor(level=10).stream_writer(raw) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in [MANIFEST, *sorted(bundle.manifest.files)]:
                archive.add(bundle.folder / name, arcname=name, filter=plain)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a ``.tar.zst`` into `folder`, refusing links and paths that leave it.

    Raises `InputError` when the archive is broken or holds anything but plain relative files.
    """
    try:
        with (
            path.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as plain,
            tarfile.open(fileobj=plain, mode="r|") as archive,
        ):
            for member in archive:
                source = archive.extractfile(member) if member.isreg() else None
                if source is None or not _is_inside(member.name):
                    raise InputError(f"{path} holds {member.name!r}, which no bundle may hold")
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is no readable .tar.zst bundle: {error}") from error


def _manifest_from_bytes(raw: bytes, file: Path) -> Manifest:
    try:
        schema = msgspec.json.decode(raw, type=_SchemaOnly).schema
    except msgspec.MsgspecError as error:
        raise InputError(f"{file} is no manifest: {error}") from error
    major = schema.partition(".")[0]
    if not major.isdigit() or int(major) > SCHEMA_MAJOR:
        raise InputError(
            f"{file} has schema {schema}, made by a newer jepa-edge; this one reads up to "
            f"{SCHEMA_MAJOR}.x: upgrade with pip install -U jepa-edge, or export again"
        )
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, WrongUseError) as error:
        raise InputError(f"{file} does not follow schema {schema}: {error}") from error


class _SchemaOnly(msgspec.Struct):
    schema: str


def _verify(bundle: Bundle) -> None:
    manifest = bundle.manifest
    named = [
        graph.path
        for entry in manifest.precisions.values()
        for graph in (entry.graphs | entry.batched).values()
    ]
    named += [manifest.golden] if manifest.golden else []
    if loose := sorted(set(named) - set(manifest.files)):
        raise CheckFailedError(f"bundle {bundle.folder} names files it has no hash of: {loose}")
    root = bundle.folder.resolve()
    for name, expected in manifest.files.items():
        file = bundle.folder / name
        if not _is_inside(name) or root not in file.resolve().parents:
            raise CheckFailedError(
                f"bundle {bundle.folder} names a file outside of itself: {name!r}"
            )
        if not file.is_file():
            raise CheckFailedError(f"bundle {bundle.folder} lacks {name}; copy or export it again")
        if file_sha256(file) != expected:
            raise CheckFailedError(
                f"bundle {bundle.folder}: {name} is not the file that was exported (its SHA-256 "
                "differs); copy or export the bundle again"
            )


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _clear_stale(path: Path) -> None:
    """Removes what killed processes left of `path`; an old bundle that stood aside comes back."""
    for left in path.parent.glob(f".{path.name}.*-*"):
        owner = left.name.removeprefix(f".{path.name}.").partition("-")[0]
        if not owner.isdigit() or _is_alive(int(owner)):
            continue
        if left.suffix == ".old" and not path.exists():
            left.rename(path)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_folder(part: Path, path: Path) -> None:
    """Renames `part` to `path`; an old `path` moves aside first and is removed last."""
    if not path.exists():
        part.rename(path)
        return
    old = part.with_suffix(".old")
    path.rename(old)
    try:
        part.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if hasattr(os, "sync"):
        os.sync()


def _merged(old: Any, new: Any) -> Any:  # noqa: ANN401  (JSON of any shape)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    known = {**new}
    for key, value in old.items():
        if key not in new:
            known[key] = value
        elif key not in {"precisions", "files", "model_config"}:
            known[key] = _merged(value, new[key])
    return known
