"""Releases on the device: content-addressed chunks come in, whole verified folders come out.

A chunk is at most `CHUNK` bytes of one file, named by its SHA-256. What an earlier release or an
interrupted upload already brought is not sent again: resuming and delta updates are the same thing.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Iterator, NamedTuple

from jepa_edge.devices.agent.durable import (
    AgentError,
    move_folder,
    read_json,
    remove,
    write_file,
    write_json,
)

CHUNK = 1 << 20
SCHEMA = 1
MANIFEST = "release.json"
BAD = "bad.json"
"""Chunks that were asked for again, because an installed release held them changed."""
LOCAL = "local.json"
"""What was made on this device (compiled Python, engines) beside the signed files."""


class Place(NamedTuple):
    """Where the bytes of a chunk already are on this device."""

    file: Path
    offset: int
    size: int


class Release(NamedTuple):
    """One release as its manifest tells it; `id` is the start of the manifest's SHA-256."""

    id: str
    raw: bytes
    fields: dict[str, Any]

    @property
    def files(self) -> dict[str, Any]:
        """Relative path → size, mode, chunks."""
        return dict(self.fields["files"])

    @property
    def size(self) -> int:
        """Bytes when unpacked."""
        return sum(entry["size"] for entry in self.fields["files"].values())

    @property
    def label(self) -> str:
        """Name and version, for people."""
        return "{} {}".format(self.fields["name"], self.fields["version"])


def release_from(raw: bytes) -> Release:
    """The release that `raw` describes. Raises `AgentError` for one that cannot be installed."""
    try:
        fields = json.loads(raw.decode())
        if fields["schema"] != SCHEMA:
            raise AgentError(
                "wrong-schema",
                "release schema {} needs another agent; this one reads {}".format(
                    fields["schema"], SCHEMA
                ),
            )
        for path, entry in fields["files"].items():
            _check_entry(path, entry)
        for key in ("name", "version", "machine", "python", "service", "health"):
            fields[key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AgentError("broken-release", "release manifest: {!r}".format(error)) from error
    return Release(hashlib.sha256(raw).hexdigest()[:16], raw, fields)


class Store:
    """The folders `chunks/` and `releases/` under an install root."""

    def __init__(self, root: Path) -> None:
        self.chunks, self.releases = root / "chunks", root / "releases"

    def folder(self, release_id: str) -> Path:
        """Where a complete release lives."""
        return self.releases / release_id

    def part(self, release_id: str) -> Path:
        """Where a release is put together."""
        return self.releases / (".part-" + release_id)

    def installed(self) -> list[str]:
        """Ids of all complete releases."""
        found = self.releases.iterdir() if self.releases.is_dir() else iter(())
        return sorted(f.name for f in found if not f.name.startswith(".") and f.is_dir())

    def read(self, release_id: str) -> Release | None:
        """The installed release called `release_id`, or None."""
        file = self.folder(release_id) / MANIFEST
        return release_from(file.read_bytes()) if file.is_file() else None

    def begin(self, raw: bytes) -> list[str]:
        """Prepares for the release in manifest `raw`; the chunks that must still be sent."""
        release = release_from(raw)
        for other in self.releases.glob(".part-*"):  # its chunks stay: they may be of use
            if other != self.part(release.id):
                remove(other)
        for folder in (self.chunks, self.part(release.id)):
            folder.mkdir(parents=True, exist_ok=True)
        write_file(self.part(release.id) / MANIFEST, raw)
        return self.missing(release)

    def pending(self, release_id: str) -> Release:
        """The release that was begun as `release_id`."""
        file = self.part(release_id) / MANIFEST
        if not file.is_file():
            raise AgentError("unknown-release", "no release {} was begun".format(release_id))
        return release_from(file.read_bytes())

    def room(self, release: Release, missing: list[str]) -> int:
        """Bytes of disk that `missing` chunks take, as chunks and again as files."""
        sizes = {}
        for entry in release.files.values():
            for index, digest in enumerate(entry["chunks"]):
                sizes[digest] = min(CHUNK, entry["size"] - index * CHUNK)
        return int(2 * sum(sizes[digest] for digest in missing))

    def missing(self, release: Release) -> list[str]:
        """Chunks of `release` that must be sent.

        What an installed release should hold counts as here until `assemble` has found it changed.
        """
        if self.folder(release.id).is_dir():
            return []
        return sorted(_wanted(release) - set(self._found(release)))

    def receive(self, release: Release, stream: BinaryIO) -> int:
        """Takes chunks from `stream` until its end mark; how many came.

        A frame is 32 bytes of digest, 4 bytes of length and that many bytes of zlib data; zeros end
        it. Raises `AgentError` for a chunk that nobody wants or whose content is not its name.
        """
        wanted, count = _wanted(release), 0
        while True:
            head = _exactly(stream, 36)
            length = int.from_bytes(head[32:], "big")
            if length == 0:
                return count
            if length > 2 * CHUNK:
                raise AgentError("corrupt-chunk", "a frame of {} bytes is too long".format(length))
            digest = head[:32].hex()
            data = _inflated(_exactly(stream, length), digest)
            if digest not in wanted:
                raise AgentError("corrupt-chunk", "chunk {} is of no release".format(digest[:16]))
            part = self.chunks / (".part-" + digest)
            part.write_bytes(data)  # a power cut may tear it: `missing` reads what it says again
            os.replace(str(part), str(self.chunks / digest))
            count += 1

    def assemble(self, release: Release) -> Path:
        """Puts the files of `release` together in its part folder, every byte verified.

        Raises `AgentError` with code ``missing-chunks`` when bytes are missing or changed; they are
        then asked for again.
        """
        part, found = self.part(release.id), self._found(release, reads_uploads=False)
        for stale in part.iterdir():
            if stale.name not in (MANIFEST, BAD):
                remove(stale)
        bad = _wanted(release) - set(found)
        for path, entry in release.files.items():
            if bad.isdisjoint(entry["chunks"]):
                bad |= _put(part / path, entry, found)
        if bad:
            write_json(part / BAD, sorted(bad))
            raise AgentError("missing-chunks", "{} chunks are missing or changed".format(len(bad)))
        remove(part / BAD)
        return part

    def complete(self, release: Release) -> Path:
        """Gives the assembled part folder its name: from then on all signed files are there."""
        move_folder(self.part(release.id), self.folder(release.id))
        return self.folder(release.id)

    def seal(self, release: Release) -> None:
        """Notes what was made on this device; a release without this note is not ready to run."""
        folder = self.folder(release.id)
        for stale in folder.glob(".*.part"):  # of a note that a power cut left unfinished
            remove(stale)
        listed = set(release.files) | {MANIFEST, LOCAL}
        local = {
            path: hashlib.sha256((folder / path).read_bytes()).hexdigest()
            for path in _paths_in(folder)
            if path not in listed
        }
        os.sync()
        write_file(folder / LOCAL, json.dumps(local, indent=1, sort_keys=True).encode())

    def is_sealed(self, release_id: str) -> bool:
        """Whether the release is complete and prepared."""
        return (self.folder(release_id) / LOCAL).is_file()

    def verify(self, release_id: str) -> list[str]:
        """What is wrong with an installed release: missing, changed or unlisted files."""
        folder, release = self.folder(release_id), self.read(release_id)
        if release is None:
            return ["release {} is not installed".format(release_id)]
        local: dict[str, str] = read_json(folder / LOCAL) or {}
        wrong = []
        for path, entry in release.files.items():
            if not (folder / path).is_file():
                wrong.append("{} is missing".format(path))
            elif _chunks_of(folder / path) != entry["chunks"]:
                wrong.append("{} was changed".format(path))
        for path, digest in local.items():
            file = folder / path
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                wrong.append("{} was changed".format(path))
        known = set(release.files) | set(local) | {MANIFEST, LOCAL}
        return wrong + [p + " is not part of it" for p in _paths_in(folder) if p not in known]

    def clean(self, keep: set[str]) -> None:
        """Removes every release but those in `keep`, everything half-made, and all chunks."""
        for folder in self.releases.iterdir() if self.releases.is_dir() else iter(()):
            if folder.name not in keep:
                remove(folder)
        remove(self.chunks)

    def _found(self, release: Release, *, reads_uploads: bool = True) -> dict[str, Place]:
        """Where each chunk of `release` is. A torn write does not count, if uploads are read."""
        wanted = _wanted(release)
        found: dict[str, Place] = {}
        bad = set(read_json(self.part(release.id) / BAD) or ())
        for file in self.chunks.iterdir() if self.chunks.is_dir() else iter(()):
            place = Place(file, 0, file.stat().st_size)
            if file.name not in wanted:
                continue
            if not reads_uploads or _chunks_of(file) == [file.name]:
                found[file.name] = place
        for digest, place in self._installed_places():
            if digest in wanted and digest not in bad:
                found.setdefault(digest, place)
        return found

    def _installed_places(self) -> Iterator[tuple[str, Place]]:
        for release_id in self.installed():
            release = self.read(release_id)
            for path, entry in release.files.items() if release else ():
                file = self.folder(release_id) / path
                if not file.is_file() or file.stat().st_size != entry["size"]:
                    continue
                for index, digest in enumerate(entry["chunks"]):
                    offset = index * CHUNK
                    yield digest, Place(file, offset, min(CHUNK, entry["size"] - offset))


def _check_entry(path: str, entry: dict[str, Any]) -> None:
    parts = PurePosixPath(path)
    is_inside = path and not parts.is_absolute() and ".." not in parts.parts and "\0" not in path
    count = -(-entry["size"] // CHUNK)
    is_whole = len(entry["chunks"]) == count and all(len(c) == 64 for c in entry["chunks"])
    if not is_inside or entry["mode"] not in (0o644, 0o755) or not is_whole:
        raise AgentError("broken-release", "release manifest: {!r} may not be in it".format(path))


def _wanted(release: Release) -> set[str]:
    return {digest for entry in release.files.values() for digest in entry["chunks"]}


def _put(target: Path, entry: dict[str, Any], found: dict[str, Place]) -> set[str]:
    """Makes one file of a release; the chunks that were not what they should be."""
    target.parent.mkdir(parents=True, exist_ok=True)
    same = _same_file(entry, found)
    if same is not None:
        here = _chunks_of(same)
        if here == entry["chunks"]:  # as OSTree does: nobody writes to an installed file
            os.link(str(same), str(target))
        return set(entry["chunks"]) - set(here)
    bad = set()
    with target.open("wb") as out:
        for digest in entry["chunks"]:
            data = _read(found[digest])
            if hashlib.sha256(data).hexdigest() != digest:
                bad.add(digest)
            out.write(data)
    target.chmod(entry["mode"])
    return bad


def _same_file(entry: dict[str, Any], found: dict[str, Place]) -> Path | None:
    """The file here that is, chunk by chunk, what `entry` asks for; None where there is none."""
    places = [found[digest] for digest in entry["chunks"]]
    files = {place.file for place in places}
    if len(files) != 1:
        return None
    (file,) = files
    in_order = all(place.offset == index * CHUNK for index, place in enumerate(places))
    status = file.stat()
    fits = status.st_size == entry["size"] and status.st_mode & 0o777 == entry["mode"]
    return file if in_order and fits else None


def _read(place: Place) -> bytes:
    with place.file.open("rb") as stream:
        stream.seek(place.offset)
        return stream.read(place.size)


def _inflated(data: bytes, digest: str) -> bytes:
    try:
        plain = zlib.decompressobj().decompress(data, CHUNK + 1)
    except zlib.error as error:
        raise AgentError("corrupt-chunk", "chunk {}: {}".format(digest[:16], error)) from error
    if len(plain) > CHUNK or hashlib.sha256(plain).hexdigest() != digest:
        raise AgentError("corrupt-chunk", "chunk {} is not what it says".format(digest[:16]))
    return plain


def _exactly(stream: BinaryIO, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            raise AgentError("cut-off", "the upload was cut off; what came is kept")
        data += more
    return data


def _chunks_of(file: Path) -> list[str]:
    with file.open("rb") as stream:
        return [hashlib.sha256(data).hexdigest() for data in iter(lambda: stream.read(CHUNK), b"")]


def _paths_in(folder: Path) -> list[str]:
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
