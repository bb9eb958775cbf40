"""The kernel's laboratory: two hosts as network namespaces, joined by a link over TUN devices.

Real TCP/IP stacks at both ends; every packet passes through this process, late by what the link
says, or never. It needs root. `python -m jepa_edge.bench.network.tun PROFILE SEED` prints where the
two hosts are, and takes everything down when its standard input ends.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from jepa_edge.bench.network.link import OneWay, SimulatedWay
from jepa_edge.bench.network.profiles import profile
from jepa_edge.contract import CheckFailedError, WrongUseError

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
ROBOT, CLOUD = "10.77.0.1", "10.77.0.2"
MTU = 1500


class Hosts(msgspec.Struct, frozen=True, kw_only=True):
    """The two namespaces; the server's address is `cloud_address`."""

    robot: str
    cloud: str
    cloud_address: str = CLOUD


class Carried(msgspec.Struct, kw_only=True):
    """What a link carried, in bytes of IP packets."""

    bytes_up: int = 0
    bytes_down: int = 0
    lost: int = 0


def unavailable() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the ip command (Debian: iproute2)"
    if not os.path.exists("/dev/net/tun"):  # noqa: PTH110  (a device)
        return "there is no /dev/net/tun"
    return ""


@contextmanager
def hosts(name: str, seed: int) -> Iterator[Hosts]:
    """Two hosts joined by a link of profile `name`, as long as the block lasts.

    Raises:
        WrongUseError: no root, no TUN, or an unknown profile.
        CheckFailedError: the kernel refuses.
    """
    profile(name)
    if reason := unavailable():
        raise WrongUseError(f"{reason}; use the proxy instead (--lab proxy)")
    bridge = subprocess.Popen(
        [sys.executable, "-m", "jepa_edge.bench.network.tun", name, str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bridge.stdin is not None
    assert bridge.stdout is not None
    try:
        line = bridge.stdout.readline()
        if not line:
            raise CheckFailedError("the bridge between the two hosts did not start")
        yield msgspec.json.decode(line, type=Hosts)
    finally:
        bridge.stdin.close()
        bridge.stdout.close()
        bridge.wait(timeout=20)


class Bridge:
    """Carries packets between two TUN devices, each way with its own link model."""

    def __init__(self, robot_fd: int, cloud_fd: int, up: OneWay, down: OneWay) -> None:
        self._ways = {robot_fd: (up, cloud_fd), cloud_fd: (down, robot_fd)}
        self._up_fd = robot_fd
        self._due: list[tuple[float, int, int, bytes]] = []
        self.carried = Carried()
        self._count = 0

    def run(self, stop: threading.Event) -> None:
        """Until `stop`; looks at it at least each 50 ms."""
        began = time.monotonic()
        while not stop.is_set():
            now = time.monotonic() - began
            while self._due and self._due[0][0] <= now:
                _, _, fd, packet = heapq.heappop(self._due)
                os.write(fd, packet)
            wait = min(0.05, self._due[0][0] - now) if self._due else 0.05
            for fd in select.select(list(self._ways), [], [], max(0.0, wait))[0]:
                self._take(fd, time.monotonic() - began)

    def _take(self, fd: int, now: float) -> None:
        packet = os.read(fd, 65536)
        way, out = self._ways[fd]
        if fd == self._up_fd:
            self.carried.bytes_up += len(packet)
        else:
            self.carried.bytes_down += len(packet)
        at = way.arrival(now, len(packet))
        if at is None:
            self.carried.lost += 1
            return
        self._count += 1
        heapq.heappush(self._due, (at, self._count, out, packet))


def main(arguments: list[str]) -> None:
    """Sets up the hosts, says so, and carries until standard input ends."""
    spec, seed = profile(arguments[0]), int(arguments[1])
    tag = f"{os.getpid() % 1_000_000}"
    robot, cloud = f"je-robot-{tag}", f"je-cloud-{tag}"
    stop = threading.Event()
    try:
        fds = []
        for namespace, own, other, device in (
            (robot, ROBOT, CLOUD, f"jer{tag}"),
            (cloud, CLOUD, ROBOT, f"jec{tag}"),
        ):
            fds.append(_tun(device))
            _ip("netns", "add", namespace)
            _ip("link", "set", device, "netns", namespace)
            inside = ("-n", namespace)
            _ip(*inside, "addr", "add", own, "peer", other, "dev", device)
            _ip(*inside, "link", "set", device, "mtu", str(MTU), "up")
            _ip(*inside, "link", "set", "lo", "up")
        ways = SimulatedWay(spec.up, 2 * seed), SimulatedWay(spec.down, 2 * seed + 1)
        bridge = Bridge(fds[0], fds[1], ways[0], ways[1])
        carrying = threading.Thread(target=bridge.run, args=(stop,), daemon=True)
        carrying.start()
        sys.stdout.write(json.dumps({"robot": robot, "cloud": cloud}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        stop.set()
        carrying.join()
    finally:
        for namespace in (robot, cloud):
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _tun(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI)
    fcntl.ioctl(fd, TUNSETIFF, request)
    return fd


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise CheckFailedError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


if __name__ == "__main__":
    main(sys.argv[1:])
