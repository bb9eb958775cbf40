"""The systemd unit of a release: its own user, a closed sandbox, a watchdog."""

from __future__ import annotations

import ipaddress
import shlex
from urllib.parse import urlsplit

import msgspec

from jepa_edge.bundle import EngineName

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
Environment=OMP_NUM_THREADS={threads}
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
        return [self.camera, self.mic, self.controller]


def unit_text(service: Service) -> str:
    """The unit that starts `service`; the network and devices are open only where it needs them."""
    remote = [uri for uri in service.links if _is_network(uri)]
    devices = service.engine == "tensorrt" or any(map(_is_device, service.links))
    return UNIT.format(
        label=service.label,
        arguments=_escaped(shlex.join(_arguments(service))),
        root=service.root,
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


def _addresses(remote: list[str]) -> str:
    """Only the named hosts may be spoken to, where they are named by address."""
    hosts = {urlsplit(_as_url(uri)).hostname or "" for uri in remote}
    try:
        allowed = sorted(str(ipaddress.ip_address(host)) for host in hosts if host != "localhost")
    except ValueError:
        return ""
    return (
        f"IPAddressDeny=any\nIPAddressAllow={' '.join(['localhost', *allowed])}\n" if hosts else ""
    )


def _as_url(uri: str) -> str:
    """``udpout:host:port`` as ``udpout://host:port``, which the standard library can split."""
    scheme, _, rest = uri.rpartition("://") if "://" in uri else uri.partition(":")
    return f"{scheme}://{rest}"


def _is_network(uri: str) -> bool:
    kind = uri.partition(":")[0]
    return kind not in ("stdout", "none", "file", "serial", "alsa") and ":" in uri


def _is_device(uri: str) -> bool:
    return uri.startswith(("/dev/", "alsa:", "serial:", "mavlink:/dev/"))


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def _escaped(text: str) -> str:
    """Systemd expands % and $ itself."""
    return text.replace("%", "%%").replace("$", "$$")
