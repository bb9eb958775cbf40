"""What an export has finished, kept beside its target until the bundle is complete."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from jepa_edge.bundle import Graph

KEY = "export.key"


class Workplace:
    """A folder of finished graphs; an export that was stopped goes on where it was.

    Each graph's facts are written last, whole or not at all: a graph without them is made again.
    """

    def __init__(self, out: Path, key: object) -> None:
        """Takes over what an export with the same `key` (anything msgspec encodes) left behind."""
        self.folder = out.parent / f".{out.name}.part"
        wanted = hashlib.sha256(msgspec.json.encode(key, enc_hook=str)).hexdigest()
        file = self.folder / KEY
        if not (file.is_file() and file.read_text() == wanted):
            self.discard()
            self.folder.mkdir(parents=True)
            file.write_text(wanted)

    @property
    def traced(self) -> Path:
        """Where graphs lie before they are compiled."""
        folder = self.folder / "traced"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def finished(self) -> Path:
        """Where compiled graphs lie, in a folder for each precision."""
        folder = self.folder / "finished"
        folder.mkdir(exist_ok=True)
        return folder

    def graph(self, precision: str, name: str) -> Graph | None:
        """The facts of a graph that is done, or None."""
        file = self._facts(precision, name)
        return msgspec.json.decode(file.read_bytes(), type=Graph) if file.is_file() else None

    def golden(self, name: str) -> Path:
        """Where one real call of a graph is kept."""
        return self.folder / f"golden-{name}.npz"

    def done(self, precision: str, name: str, graph: Graph) -> None:
        """Notes that a graph is done."""
        part = self._facts(precision, name).with_suffix(".new")
        part.write_bytes(msgspec.json.encode(graph))
        part.replace(self._facts(precision, name))

    def give_finished(self, bundle: Path) -> None:
        """Puts every finished file into `bundle`, without a copy; all of them stay here as well.

        A bundle that is stopped before it is complete takes nothing away.
        """
        shutil.copytree(self.finished, bundle, copy_function=_link, dirs_exist_ok=True)

    def discard(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _facts(self, precision: str, name: str) -> Path:
        return self.folder / f"{precision}-{name}.json"


def _link(source: str, target: str) -> str:
    """A second name for a file; a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
