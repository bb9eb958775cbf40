"""The systemd unit of a release: its own user, a closed sandbox, a watchdog."""

from __future__ import annotations

import ipaddress
import re
import shlex
from itertools import zip_longest
from urllib.parse import urlsplit

import msgspec

from jepa_edge.bundle import EngineName
from jepa_edge.contract import WrongUseError

SECRETS = "/etc/jepa-edge/secrets"
"""On the device, for root alone: lines NAME=VALUE, which ``${NAME}`` in an address stands for."""
NAMED = re.compile(r"\$\{[A-Z][A-Z0-9_]*\}")
LOCAL = ("stdout", "none", "file", "serial", "alsa")
JIT_ENGINES: tuple[EngineName, ...] = ("openvino", "tensorrt")
"""These write machine code while they run, so their memory may be writable and executable."""

UNIT = """\
[Unit]
Description=jepa-edge {label}
Documentation=https://www.freedesktop.org/software/systemd/man/latest/systemd.exec.html
After=network.target

[Service]
Type=notify
ExecStart=/usr/bin/python3 -m jepa_edge.runtimes {arguments}
# The process sees the folder of its own release, whatever `current` points to later.
WorkingDirectory={root}/current
Environment=PYTHONPATH=site PYTHONNOUSERSITE=1 PYTHONUNBUFFERED=1
Environment=PYTHONPYCACHEPREFIX={root}/current/made/pycache PYTHONDONTWRITEBYTECODE=1
Environment=OMP_NUM_THREADS={threads} JEPA_EDGE_CACHE={root}/current/made
EnvironmentFile=-{secrets}
RuntimeDirectory=jepa-edge
Restart=always
RestartSec=1
TimeoutStartSec={start_s}
TimeoutStopSec=5
WatchdogSec={watchdog_s}
LogNamespace=jepa-edge
OOMScoreAdjust=-500

DynamicUser=yes
User=jepa-edge
SupplementaryGroups=video audio dialout
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices={private_devices}
PrivateNetwork={private_network}
RestrictAddressFamilies={families}
{addresses}RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute={no_jit}
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What the runtime is started with, and for how long it may be silent."""

    root: str
    label: str
    engine: EngineName
    camera: str
    mic: str
    controller: str
    precision: str
    repeat: bool = False
    threads: int = 0
    watchdog_s: int = 10
    start_s: int = 120
    arguments: tuple[str, ...] = ()

    @property
    def links(self) -> list[str]:
        """The URIs it reads from and writes to."""
        return [self.camera, self.mic, self.controller, *self.arguments]


def unit_text(service: Service) -> str:
    """The unit that starts `service`; the network and devices are open only where it needs them.

    Raises `WrongUseError` for a link that would write lines of its own, or holds a password.
    """
    for uri in service.links:
        _refuse_secret(uri)
    if odd := [uri for uri in service.links if not uri.isprintable()]:
        raise WrongUseError(f"{odd[0]!r} holds a character that no unit file may hold")
    remote = [host for host in map(_host, service.links) if host is not None]
    devices = service.engine == "tensorrt" or any(map(_is_device, service.links))
    return UNIT.format(
        label=service.label,
        arguments=_escaped(shlex.join(_arguments(service))),
        root=service.root,
        secrets=SECRETS,
        threads=service.threads or 4,
        start_s=service.start_s,
        watchdog_s=service.watchdog_s,
        private_devices=_word(not devices),
        private_network=_word(not remote),
        families="AF_UNIX AF_INET AF_INET6" if remote else "AF_UNIX",
        addresses=_addresses(remote),
        no_jit=_word(service.engine not in JIT_ENGINES),
    )


def _arguments(service: Service) -> list[str]:
    argv = ["--bundle", "bundle", "--camera", service.camera, "--mic", service.mic]
    argv += ["--controller", service.controller, "--precision", service.precision]
    argv += ["--repeat"] if service.repeat else []
    argv += ["--threads", str(service.threads)] if service.threads else []
    return [*argv, *service.arguments]


def _refuse_secret(uri: str) -> None:
    """Raises `WrongUseError` for a login: releases are copied about, and kept."""
    login, at, place = uri.partition("://")[2].partition("/")[0].rpartition("@")
    if at and NAMED.sub("", login).strip(":"):
        raise WrongUseError(
            f"…@{place} has a login, which must not be in a release: put a line "
            f"CAMERA_LOGIN=… into {SECRETS} on the device, for root alone (chmod 600), and write "
            f"${{CAMERA_LOGIN}}@{place}"
        )


def _addresses(hosts: list[str]) -> str:
    """Only the named hosts may be spoken to, where they are all named by address."""
    try:
        allowed = {ipaddress.ip_address(host) for host in hosts if host != "localhost"}
    except ValueError:
        return ""
    if not hosts or any(address.is_unspecified for address in allowed):
        return ""
    named = " ".join(["localhost", *sorted(map(str, allowed))])
    return f"IPAddressDeny=any\nIPAddressAllow={named}\n"


def _host(uri: str) -> str | None:
    """The host that `uri` speaks to, empty if it does not say; None if it uses no network."""
    kind, _, rest = uri.partition(":")
    if kind == "mavlink":
        return _host(rest)
    if not rest or uri.startswith("/") or kind in LOCAL:
        return None
    return urlsplit(uri).hostname or "" if rest.startswith("//") else rest.rpartition(":")[0]


def _is_device(uri: str) -> bool:
    return "/dev/" in uri or uri.startswith("alsa:")


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _escaped(text: str) -> str:
    """Systemd expands % and $ itself; only names from `SECRETS` are meant for it."""
    kept = NAMED.findall(text)
    parts = (part.replace("%", "%%").replace("$", "$$") for part in NAMED.split(text))
    return "".join(part + name for part, name in zip_longest(parts, kept, fillvalue=""))
