"""Bundle + wheels + configuration + unit → one release file, the same bytes each time."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import zstandard

from jepa_edge.bundle import Bundle, file_sha256, opened, write_manifest
from jepa_edge.contract import InputError, WrongUseError
from jepa_edge.devices.agent.store import CHUNK, MANIFEST, SCHEMA, release_from
from jepa_edge.devices.release.sbom import bill_of_materials
from jepa_edge.devices.release.unit import Service, unit_text
from jepa_edge.devices.release.wheels import (
    copy_own_package,
    download,
    lock_text,
    requirements_for,
    unpack_wheels,
)
from jepa_edge.devices.targets import System, Target, system_of, target

LOCK = "requirements.lock"
MODEL_ROOM = 4
"""A runtime needs about this many times the bundle's bytes: weights, engine copies, activations."""


class ReleaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a release holds. `camera`, `mic` and flags that are files here are packed into it."""

    bundle: Path
    device: str
    version: str
    precision: str | None = None
    camera: str = "/dev/video0"
    mic: str | None = None
    controller: str = "none"
    autopilot: str | None = None
    min_battery_pct: int = 30
    system: str | None = None
    python: str | None = None
    root: str = "/opt/jepa-edge"
    lock: Path | None = None
    threads: int = 0
    repeat: bool = False
    run_flags: tuple[str, ...] = ()
    healthy_steps: int = 10
    healthy_within_s: float = 180.0


class BuiltRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release unpacked on this machine: `folder` holds exactly the files `manifest` lists."""

    folder: Path
    manifest: bytes

    @property
    def id(self) -> str:
        """The id that the device gives it too."""
        return release_from(self.manifest).id

    @property
    def fields(self) -> dict[str, Any]:
        """The manifest, decoded."""
        return release_from(self.manifest).fields

    @property
    def name(self) -> str:
        """What it is signed as: product, device, version."""
        fields = self.fields
        return f"{fields['name']}/{fields['device']}/{fields['version']}.json"

    def chunk_places(self) -> dict[str, tuple[str, int]]:
        """Each chunk's file and offset."""
        found: dict[str, tuple[str, int]] = {}
        for path, entry in self.fields["files"].items():
            for index, digest in enumerate(entry["chunks"]):
                found.setdefault(digest, (path, index * CHUNK))
        return found

    def chunk(self, place: tuple[str, int]) -> bytes:
        """The bytes at `place`."""
        with (self.folder / place[0]).open("rb") as stream:
            stream.seek(place[1])
            return stream.read(CHUNK)


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What `build_to_file` wrote."""

    file: Path
    release: str
    bytes: int
    sha256: str


def build_to_file(
    config: ReleaseConfig, path: Path, progress: Callable[[str, int, int], None]
) -> Packed:
    """Builds the release of `config` and packs it into the file `path`."""
    with tempfile.TemporaryDirectory(prefix="jepa-edge-release-") as folder:
        built = build_release(config, Path(folder), progress)
        pack_release(built, path)
    return Packed(file=path, release=built.id, bytes=path.stat().st_size, sha256=file_sha256(path))


def build_release(
    config: ReleaseConfig, folder: Path, progress: Callable[[str, int, int], None]
) -> BuiltRelease:
    """Fills the empty `folder` with the release; `progress` gets (what, done, total).

    Raises `InputError` or `WrongUseError` for a bundle, device or version that does not fit.
    """
    chosen = target(config.device)
    system = system_of(chosen, config.system, config.python)
    _check_version(config.version)
    with opened(config.bundle) as bundle:
        _check_engine(bundle, chosen)
        precision = config.precision or bundle.manifest.default_precision
        progress("bundle", 0, 5)
        _copy_bundle(bundle, precision, folder / "bundle")
        service = _service(config, bundle, precision, folder)
        progress("wheels", 1, 5)
        flies = config.controller.startswith("mavlink")
        extras = [bundle.manifest.engine, "sensors", *(["mavlink"] if flies else [])]
        with tempfile.TemporaryDirectory(prefix="jepa-edge-wheels-") as wheels:
            needs = requirements_for([e for e in extras if e != "tensorrt"])
            download(needs, system, Path(wheels), lock=config.lock)
            progress("unpacking", 2, 5)
            packages = unpack_wheels(Path(wheels), folder / "site")
        copy_own_package(folder / "site")
        progress("bill of materials", 3, 5)
        name = bundle.manifest.name
        bill = bill_of_materials(name, config.version, bundle.manifest, packages)
        (folder / "sbom.cdx.json").write_text(bill)
        (folder / LOCK).write_text(lock_text(packages))
        (folder / "units").mkdir()
        (folder / "units" / "jepa-edge.service").write_text(unit_text(service))
        progress("hashing", 4, 5)
        manifest = _manifest(config, bundle, system, service, folder)
    (folder / MANIFEST).write_bytes(manifest)
    return BuiltRelease(folder=folder, manifest=manifest)


def pack_release(release: BuiltRelease, path: Path) -> None:
    """Writes `release` as one ``.tar.zst``, byte for byte the same each time."""

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime, info.uid, info.gid, info.uname, info.gname = 0, 0, 0, "", ""
        return info

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with (
            part.open("wb") as raw,
            zstandard.ZstdCompressor(level=10).stream_writer(raw) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name in [MANIFEST, *sorted(release.fields["files"])]:
                archive.add(release.folder / name, arcname=name, filter=plain)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def open_release(path: Path) -> Iterator[BuiltRelease]:
    """The release packed in `path`, unpacked into a temporary folder.

    Raises `InputError` when it is none. Content is not judged here: the device checks every chunk.
    """
    if not path.is_file():
        raise InputError(f"no release at {path} (jepa-edge release makes one)")
    with tempfile.TemporaryDirectory(prefix="jepa-edge-release-") as name:
        folder = Path(name)
        try:
            with (
                path.open("rb") as raw,
                zstandard.ZstdDecompressor().stream_reader(raw) as plain,
                tarfile.open(fileobj=plain, mode="r|") as archive,
            ):
                archive.extractall(folder, filter="data")
        except (zstandard.ZstdError, tarfile.TarError, EOFError) as error:
            raise InputError(f"{path} is no release: {error}") from error
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{path} is no release: it has no {MANIFEST}")
        yield BuiltRelease(folder=folder, manifest=(folder / MANIFEST).read_bytes())


def _check_version(version: str) -> None:
    if not all(part.isdigit() for part in version.split(".")):
        raise WrongUseError(f"release version {version!r}: give numbers and dots, such as 1.4.0")


def _check_engine(bundle: Bundle, chosen: Target) -> None:
    if bundle.manifest.engine != chosen.engine:
        raise WrongUseError(
            f"bundle {bundle.manifest.name} is for {bundle.manifest.engine}, {chosen.name} runs "
            f"{chosen.engine}; export it again with --target {chosen.name}"
        )


def _copy_bundle(bundle: Bundle, precision: str, folder: Path) -> None:
    """The bundle with one precision only: a device runs one, and its disk is small."""
    manifest = bundle.manifest
    one = manifest.precision(precision)
    others = {
        Path(graph.path).parent
        for name, entry in manifest.precisions.items()
        for graph in entry.graphs.values()
        if name != precision
    }
    for path in manifest.files:
        if Path(path).parent not in others:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.folder / path, folder / path)
    shipped = msgspec.structs.replace(
        manifest, precisions={precision: one}, default_precision=precision
    )
    write_manifest(folder, shipped)


def _service(config: ReleaseConfig, bundle: Bundle, precision: str, folder: Path) -> Service:
    camera = _packed(config.camera, folder)
    return Service(
        root=config.root,
        label=f"{bundle.manifest.name} {config.version}",
        engine=bundle.manifest.engine,
        camera=camera,
        mic=_packed(config.mic, folder) if config.mic else camera,
        controller=config.controller,
        precision=precision,
        threads=config.threads,
        arguments=tuple(_packed(word, folder) for word in config.run_flags),
        repeat=config.repeat or camera.startswith("media/"),
        start_s=max(120, round(config.healthy_within_s)),
    )


def _packed(uri: str, folder: Path) -> str:
    """`uri`, or the place in the release of the local file that it names."""
    file = Path(uri)
    if uri.startswith("/dev/") or "://" in uri or not file.is_file():
        return uri
    packed = folder / "media" / file.name
    if packed.exists() and file_sha256(packed) != file_sha256(file):
        raise WrongUseError(f"two files called {file.name} cannot both be packed: rename one")
    packed.parent.mkdir(exist_ok=True)
    shutil.copyfile(file, packed)
    return f"media/{file.name}"


def _manifest(
    config: ReleaseConfig, bundle: Bundle, system: System, service: Service, folder: Path
) -> bytes:
    entries = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            file.chmod(0o644)
            entries[file.relative_to(folder).as_posix()] = entry_of(file)
    listen = _listen(config)
    asked = {"listen": listen, "min_battery_pct": config.min_battery_pct} if listen else None
    fields = {
        "schema": SCHEMA,
        "name": bundle.manifest.name,
        "version": config.version,
        "device": config.device,
        "machine": system.machine,
        "python": system.python,
        "glibc": system.glibc,
        "memory_bytes": MODEL_ROOM * _size(folder / "bundle"),
        "service": msgspec.to_builtins(service),
        "health": {
            "within_s": config.healthy_within_s,
            "ok_steps": config.healthy_steps,
            "needs_autopilot": config.controller.startswith("mavlink"),
        },
        "autopilot": asked,
        "prepare": [
            {
                "what": "comparing with the golden outputs",
                "argv": ["-m", "jepa_edge.runtimes.selfcheck", "--bundle", "bundle"],
            }
        ],
        "files": entries,
    }
    return msgspec.json.format(msgspec.json.encode(fields, order="sorted"), indent=1) + b"\n"


def _listen(config: ReleaseConfig) -> str | None:
    """Where the device hears its autopilot: as told, else on the controller's own link."""
    kind, _, link = config.controller.partition(":")
    told = config.autopilot or (link if kind == "mavlink" else "none")
    return None if told == "none" else told


def entry_of(file: Path) -> dict[str, Any]:
    """How the manifest tells of one file: size, mode, the SHA-256 of each chunk."""
    data = file.read_bytes()
    pieces = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
    return {
        "size": len(data),
        "mode": 0o644,
        "chunks": [hashlib.sha256(piece).hexdigest() for piece in pieces],
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
