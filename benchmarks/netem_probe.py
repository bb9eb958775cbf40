"""One-way delays, losses and rate between two network namespaces; standard library alone.

It runs in the laboratory of this machine and, copied there, inside a virtual machine. Both ends are
sockets of this one process, so that one clock times both.
"""

import ctypes
import json
import os
import socket
import struct
import sys
import threading
import time

CLONE_NEWNET = 0x40000000
PROBE = struct.Struct("!Id")
Arrived = tuple[int, float, float, int]
"""Number, sent at, arrived at, bytes."""


def socket_in(namespace: str) -> socket.socket:
    """A UDP socket inside of the namespace called so; this thread stays where it is."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
    try:
        if libc.setns(there, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if libc.setns(home, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot come back")
        return made
    finally:
        os.close(home)
        os.close(there)


def received(sock: socket.socket, until_s: float) -> list[Arrived]:
    """Each datagram that comes until then."""
    found: list[Arrived] = []
    while (left := until_s - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            data = sock.recv(2048)
        except TimeoutError:
            break
        found.append((*PROBE.unpack(data[: PROBE.size]), time.monotonic(), len(data)))
    return found


def sent(
    ends: tuple[socket.socket, socket.socket],
    address: tuple[str, int],
    plan: list[float],
    size: int,
    drain_s: float,
) -> list[Arrived]:
    """What arrives at the second end of datagrams that leave the first at the times `plan`."""
    near, far = ends
    began = time.monotonic() + 0.1
    found: list[Arrived] = []
    until = began + plan[-1] + drain_s
    listening = threading.Thread(target=lambda: found.extend(received(far, until)))
    listening.start()
    for number, at in enumerate(plan):
        time.sleep(max(0.0, began + at - time.monotonic()))
        near.sendto(PROBE.pack(number, time.monotonic()) + bytes(size - PROBE.size), address)
    listening.join()
    return found


def main() -> None:
    """Probes from the namespace of the robot to that of the cloud; prints one JSON object."""
    robot, cloud, address, count, gap_ms, rate_mbit = sys.argv[1:7]
    near, far = socket_in(robot), socket_in(cloud)
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    far.bind((address, 9000))
    place, size = (address, 9000), 100
    sent((near, far), place, [0.0, 0.1, 0.2], size, 1.0)  # neighbours are found, programs are warm
    plan = [k * float(gap_ms) / 1e3 for k in range(int(count))]
    probes = sent((near, far), place, plan, size, 2.0)
    full = 1400
    every = full * 8 / (1.5 * float(rate_mbit) * 1e6)
    flood = sent((near, far), place, [k * every for k in range(int(3 / every))], full, 2.0)
    later = [found for found in flood if found[2] > flood[0][2] + 1.0]
    (first, left_s, _, _), (last, went_s, _, _) = later[0], later[-1]
    bits, seconds = (full + 28) * 8 / 1e6, later[-1][2] - later[0][2]
    print(  # noqa: T201
        json.dumps(
            {
                "sent": int(count),
                "delays_ms": [round((b - a) * 1e3, 3) for _, a, b, _ in probes],
                "offered_mbit": round((last - first) * bits / (went_s - left_s), 3),
                "rate_mbit": round((len(later) - 1) * bits / seconds, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
