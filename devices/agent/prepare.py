"""What is made of a release on the device before it may run: engines, compiled Python, parity."""

from __future__ import annotations

import grp
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

from jepa_edge.devices.agent.durable import AgentError, read_json, remove
from jepa_edge.devices.agent.store import Release

NOBODY = 65534
MADE = "made"
"""The one folder of a release that a prepare step may write to."""
TOOK = "took.json"


def prepare(release: Release, folder: Path, say: Callable[[str], None]) -> None:
    """Runs the signed prepare steps of `release` inside its `folder`, as nobody.

    Raises `AgentError` with code ``unfit`` and the step's own words when one fails.
    """
    made = folder / MADE
    remove(made)
    made.mkdir()
    _give(made, NOBODY)
    began = time.monotonic()
    for step in release.fields.get("prepare", []):
        say(step["what"])
        _run([sys.executable, *step["argv"]], folder)
    for path in [made, *made.rglob("*")]:
        _give(path, 0)
    (made / TOOK).write_text(json.dumps({"seconds": round(time.monotonic() - began, 2)}))


def took_s(folder: Path) -> float:
    """How many seconds the prepare steps took in `folder`: how fast this device is."""
    noted = read_json(folder / MADE / TOOK) or {}
    return float(noted.get("seconds", 0.0))


def _gpu_groups() -> list[int]:
    """The groups that may use a GPU: on a Jetson, video."""
    known = {group.gr_name: group.gr_gid for group in grp.getgrall()}
    return [known[name] for name in ("video", "render") if name in known]


def _give(path: Path, user: int) -> None:
    if os.getuid() == 0:
        os.chown(str(path), user, user, follow_symlinks=False)


def _run(argv: list[str], folder: Path) -> None:
    groups = _gpu_groups()

    def become_nobody() -> None:
        if os.getuid() == 0:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": "site",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPYCACHEPREFIX": str(folder / MADE / "pycache"),
        "JEPA_EDGE_CACHE": str(folder / MADE),  # a Jetson's engines are built and kept there
        "HOME": "/nonexistent",
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        argv,
        cwd=str(folder),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=become_nobody,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip()[-2000:]
        raise AgentError("unfit", "{} failed here: {}".format(" ".join(argv[1:4]), said))
