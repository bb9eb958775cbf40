"""The device around the agent: facts for the pre-flight, and systemd."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Sequence

from jepa_edge.devices.agent.durable import AgentError, point, write_file
from jepa_edge.devices.agent.state import Layout

SERVICE = "jepa-edge.service"
AGENT = "jepa-edge-agent.service"
ACCOUNT = "jepa-edge"

AGENT_UNIT = """\
[Unit]
Description=jepa-edge device agent: finishes or takes back an unfinished change
After=local-fs.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={python} {root}/agent.pyz --root {root} work
Restart=on-failure
RestartSec=1
TimeoutStartSec=infinity
UMask=0022
NoNewPrivileges=yes
ProtectHome=yes

[Install]
WantedBy=multi-user.target
"""

JOURNAL = """\
# Logs of jepa-edge rotate on their own, apart from the system's.
[Journal]
SystemMaxUse=64M
SystemMaxFileSize=8M
MaxRetentionSec=1month
RateLimitIntervalSec=30s
RateLimitBurst=2000
"""


def command(argv: Sequence[str], timeout_s: float = 60.0) -> str:
    """What `argv` prints. Raises `AgentError` with its complaint when it fails."""
    try:
        done = subprocess.run(
            list(argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError("command-failed", "{}: {}".format(argv[0], error)) from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()[-2000:]
        raise AgentError("command-failed", "{}: {}".format(" ".join(argv), said))
    return done.stdout.decode(errors="replace")


def systemctl(*arguments: str) -> str:
    """What ``systemctl`` prints. Raises `AgentError`: ``booting`` while systemd does not answer.

    Around a power cut, a login may come before systemd is up or after it went down.
    """
    argv = ["systemctl", *arguments]
    try:
        return command(argv)
    except AgentError as error:
        asked = ["systemctl", "is-system-running"]
        state = subprocess.run(asked, capture_output=True, check=False)
        if state.stdout.strip() in (b"", b"unknown", b"offline", b"stopping"):
            raise AgentError("booting", str(error)) from error
        return command(argv)  # it came up, or the complaint is about something else


class Systemd:
    """The service that runs the current release, and the agent's own unit."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def install(self) -> None:
        """Sets the agent's unit and the account up; nothing changes when they are there."""
        folder = self.layout.units
        text = AGENT_UNIT.format(python=sys.executable, root=self.layout.root)
        self._write(folder / AGENT, text)
        self._write(folder.parent / ("journald@" + ACCOUNT + ".conf"), JOURNAL)
        wants = folder / "multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        point(wants / AGENT, str(folder / AGENT))
        systemctl("daemon-reload")

    def restart(self) -> None:
        """Starts the service from whatever `current` points to, without waiting for it."""
        folder = self.layout.units
        wants = folder / "multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        point(folder / SERVICE, str(self.layout.current / "units" / SERVICE))
        point(wants / SERVICE, str(folder / SERVICE))
        systemctl("daemon-reload")
        self._quietly("reset-failed", SERVICE)
        systemctl("restart", "--no-block", SERVICE)

    def start(self) -> None:
        """Starts the service if it does not run."""
        systemctl("start", "--no-block", SERVICE)

    def stop(self) -> None:
        """Stops the service and waits until it has stopped."""
        self._quietly("stop", SERVICE)

    def begin_work(self) -> None:
        """Lets systemd run the agent's worker, which then outlives this connection."""
        systemctl("start", "--no-block", AGENT)

    def show(self) -> dict[str, str]:
        """ActiveState, SubState, MainPID, NRestarts and Result of the service."""
        names = "ActiveState,SubState,MainPID,NRestarts,Result"
        lines = systemctl("show", SERVICE, "--property", names).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def last_words(self) -> str:
        """The last line of the service's log, as the end of a sentence."""
        argv = ["journalctl", "--namespace=" + ACCOUNT, "-u", SERVICE, "-n", "20", "-o", "cat"]
        try:
            lines = [line for line in command([*argv, "--no-pager"]).splitlines() if line.strip()]
        except AgentError:
            return ""
        told = [line for line in lines if line.startswith("error")] or lines
        return "; it said: " + told[-1][:500] if told else ""

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            write_file(path, text.encode())

    def _quietly(self, *arguments: str) -> None:
        with contextlib.suppress(AgentError):  # nothing there to stop or to reset
            systemctl(*arguments)


def facts(layout: Layout) -> dict[str, Any]:
    """What the pre-flight must know of this device."""
    below = layout.root
    while not below.exists():
        below = below.parent
    memory = _meminfo()
    return {
        "machine": platform.machine(),
        "python": "{}.{}".format(*sys.version_info[:2]),
        "glibc": platform.libc_ver()[1],
        "system": _os_release(),
        "hostname": platform.node(),
        "disk_free": shutil.disk_usage(str(below)).free,
        "memory_total": memory.get("MemTotal", 0),
        "memory_free": memory.get("MemAvailable", 0),
        "time": time.time(),
        "uid": os.getuid(),
        "systemd": _systemd_version(),
        "is_systemd": Path("/run/systemd/system").is_dir(),
        "tensorrt": _tensorrt(),
    }


def _meminfo() -> dict[str, int]:
    pairs = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in pairs if len(words) > 1}


def _os_release() -> str:
    file = Path("/etc/os-release")
    lines = file.read_text().splitlines() if file.is_file() else []
    named = [line.split("=", 1)[1].strip('"') for line in lines if line.startswith("PRETTY_NAME=")]
    return named[0] if named else platform.system()


def _systemd_version() -> int | None:
    try:
        words = command(["systemctl", "--version"]).split()
    except AgentError:
        return None
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None


def _tensorrt() -> str | None:
    """The version of the TensorRT that JetPack installed, or None."""
    try:
        return command(["dpkg-query", "-W", "-f", "${Version}", "libnvinfer-bin"]).strip() or None
    except AgentError:
        return None
