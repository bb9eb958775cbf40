"""A robot's environment: the project's wheel and the libraries that it names, and nothing else."""

import importlib.metadata
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


def robot_python(folder: Path, extras: tuple[str, ...]) -> Path:
    """The Python of a new environment with the wheel and the closure of `extras`, offline.

    Libraries are linked from this environment, so that nothing is downloaded; what a library needs
    is read from its own metadata, so that what no metadata names is not there.
    """
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv" / "lib").glob("python3*/site-packages")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("jepa_edge-*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    for name in _closure("jepa-edge", extras):
        _link(importlib.metadata.distribution(name), site)
    return folder / "venv" / "bin" / "python"


def _closure(name: str, extras: tuple[str, ...]) -> set[str]:
    """Every distribution that `name` with `extras` needs, without itself."""
    needed: set[str] = set()
    waiting = [(name, extras)]
    seen = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        needed.add(one[0])
        for text in importlib.metadata.requires(one[0]) or []:
            wanted = Requirement(text)
            marker = wanted.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *one[1])):
                waiting.append((wanted.name.lower(), tuple(sorted(wanted.extras))))
    return needed - {name}


def _link(distribution: importlib.metadata.Distribution, site: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}
    for top in tops - {"__pycache__"}:
        if not (site / top).exists():
            (site / top).symlink_to(str(distribution.locate_file(top)))
