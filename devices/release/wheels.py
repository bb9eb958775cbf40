"""The Python packages of a release: downloaded for the device's Python, pinned by hash, unpacked.

A device installs offline and runs no installer: the wheels are unpacked here, and the agent copies
files. That also makes updates small, because unchanged files are not sent again.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

import msgspec

from jepa_edge.contract import CheckFailedError, InputError
from jepa_edge.devices.targets import System

HOST_ONLY = {
    "model", "train", "worlds", "bench", "export", "quantize", "assets",
    "release", "flash", "serve", "__pycache__",
}  # fmt: skip
"""Parts of jepa_edge that never go on a device: they need torch, act on the host, or listen."""


DIALECTS = "pymavlink/dialects/"
SPOKEN = {"__init__", "common", "ardupilotmega"}
"""The dialects of MAVLink that the runtime and pymavlink itself load; all of them are 46 MB."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One wheel of a release."""

    name: str
    version: str
    sha256: str
    file: str
    license: str | None = None


def requirements_for(extras: Sequence[str]) -> list[str]:
    """What jepa-edge needs with `extras`, as requirement lines without its own name."""
    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires("jepa-edge") or []:
        need = Requirement(line)
        asked = [{"extra": extra} for extra in ["", *extras]]
        is_own = need.name == "jepa-edge"  # an extra that names another extra
        if not is_own and (need.marker is None or any(map(need.marker.evaluate, asked))):
            found.append(f"{need.name}{need.specifier}")
    return sorted(set(found))


def download(needs: Sequence[str], system: System, folder: Path, *, lock: Path | None) -> None:
    """Downloads wheels for `system` into `folder`: those that `lock` pins, or the newest that fit.

    Raises `InputError` when a wheel does not exist for that Python and architecture.
    """
    argv = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
        "--dest", str(folder), "--only-binary=:all:",
        "--implementation", "cp", "--python-version", system.python,
    ]  # fmt: skip
    for tag in platform_tags(system):
        argv += ["--platform", tag]
    if lock is None:
        argv += needs
    else:
        argv += ["--require-hashes", "--no-deps", "--requirement", str(lock)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise InputError(
            f"no wheels for Python {system.python} on {system.machine}: "
            f"{' '.join(said) or done.stderr.strip()[-500:]}"
        )


def platform_tags(system: System) -> list[str]:
    """Every manylinux tag that the device's C library can load, newest first (PEP 600)."""
    major, minor = map(int, system.glibc.split("."))
    tags = [f"manylinux_{major}_{n}_{system.machine}" for n in range(minor, 16, -1)]
    return [*tags, f"manylinux2014_{system.machine}"]


def lock_text(packages: Sequence[Package]) -> str:
    """The pinned requirements, which `download` takes back as its lock."""
    lines = [f"{p.name}=={p.version} --hash=sha256:{p.sha256}" for p in packages]
    return "\n".join(lines) + "\n"


def unpack_wheels(folder: Path, site: Path) -> list[Package]:
    """Unpacks every wheel in `folder` into `site`; what they are, sorted by name.

    Raises `CheckFailedError` when two wheels bring the same file with different content.
    """
    packages = []
    for wheel in sorted(folder.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                inside = None if info.is_dir() else _place(info.filename)
                if inside is not None:
                    _write(site / inside, archive.read(info))
            packages.append(_described(wheel, archive))
    return sorted(packages, key=lambda package: package.name)


def copy_own_package(site: Path) -> None:
    """Copies the part of jepa_edge that runs on a device into `site`."""
    _copy(resources.files("jepa_edge"), site / "jepa_edge")


def _copy(source: Traversable, target: Path) -> None:
    for entry in sorted(source.iterdir(), key=lambda one: one.name):
        if entry.name in HOST_ONLY or entry.name.startswith("."):
            continue
        if entry.is_dir():
            _copy(entry, target / entry.name)
        elif entry.name.endswith((".py", ".toml", ".typed")):
            _write(target / entry.name, entry.read_bytes())


def _place(name: str) -> str | None:
    """Where a file of a wheel goes under site-packages; None for what no device needs."""
    parts = PurePosixPath(name).parts
    if PurePosixPath(name).is_absolute() or ".." in parts:
        raise InputError(f"a wheel holds {name!r}, which leaves its folder")
    if parts[0].endswith(".data"):
        return "/".join(parts[2:]) if parts[1] in ("purelib", "platlib") else None
    is_unspoken = name.startswith(DIALECTS) and PurePosixPath(name).stem not in SPOKEN
    return None if is_unspoken else name


def _write(path: Path, data: bytes) -> None:
    if path.exists() and path.read_bytes() != data:
        raise CheckFailedError(f"two packages bring different {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _described(wheel: Path, archive: zipfile.ZipFile) -> Package:
    from email.parser import Parser

    names: Iterable[str] = archive.namelist()
    file = next(n for n in names if n.endswith(".dist-info/METADATA") and n.count("/") == 1)
    fields = Parser().parsestr(archive.read(file).decode())
    return Package(
        name=fields["Name"],
        version=fields["Version"],
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        file=wheel.name,
        license=fields["License-Expression"],
    )
