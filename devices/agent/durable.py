"""File changes that survive a power cut: all there, or not begun."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


class AgentError(Exception):
    """What a person must mend; `code` is the word a program can act on."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def sync_folder(folder: Path) -> None:
    """Makes the names inside `folder` durable."""
    handle = os.open(str(folder), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Writes `path` whole: readers see the old bytes or the new ones, also after a power cut."""
    part = path.with_name("." + path.name + ".part")
    handle = os.open(str(part), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.fchmod(handle, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(str(part), str(path))
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401  (JSON of any shape)
    """Writes `value` whole, as JSON."""
    write_file(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> Any:  # noqa: ANN401  (JSON of any shape)
    """The JSON in `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise AgentError("broken-state", "{} is no JSON: {}".format(path, error)) from error


def move_folder(part: Path, final: Path) -> None:
    """Gives a complete folder its final name: everything in it is on the disk before it has one."""
    os.sync()
    os.rename(str(part), str(final))
    sync_folder(final.parent)


def point(link: Path, target: str) -> None:
    """Makes `link` point to `target` in one step; it never points nowhere."""
    if os.path.islink(str(link)) and os.readlink(str(link)) == target:
        return
    part = link.with_name("." + link.name + ".part")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(str(part))
    os.symlink(target, str(part))
    os.replace(str(part), str(link))
    sync_folder(link.parent)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder; nothing there is fine. A folder loses its name first."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if path.name.startswith(".") else path.with_name(".gone-" + path.name)
        if doomed != path:
            shutil.rmtree(str(doomed), ignore_errors=True)
            os.rename(str(path), str(doomed))
            sync_folder(path.parent)
        shutil.rmtree(str(doomed), ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(str(path))
