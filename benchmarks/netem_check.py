"""Our network laboratory against the kernel's own netem: the same profile, the same probes.

python benchmarks/netem_check.py     # root; needs what examples/virtual_drone.sh needs for `vm`

Kernels without netem are common (this machine's is one), so netem runs inside a virtual machine
with Debian's kernel (QEMU, software emulation), between two namespaces; ours runs here. Probes go
up. Writes results/netem/netem.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench import machine
from jepa_edge.bench.decisions import wilson
from jepa_edge.bench.facts import Interval, Machine
from jepa_edge.bench.network.profiles import Direction, profile
from jepa_edge.bench.network.tun import CLOUD, hosts

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "examples" / "virtual_drone.sh"
OUT = HERE / "results" / "netem" / "netem.json"
NAMES = ("5g_good", "wifi", "lte_poor")
"""Profiles that netem can express: no handovers, outages or standing queues."""
COUNT, GAP_MS = 600, 40
PORT = 22922
TABLE, SCALE = 4096, 8192
"""Size and unit of netem's tables of distributions (tc-netem, maketable)."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What the probes found on one side; delays are one way, up."""

    sent: int
    lost: Interval
    p5_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    offered_mbit: float
    """What the flood sent; below the link's rate it says nothing of the link."""
    rate_mbit: float


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides for one profile; `apart` is the Kolmogorov-Smirnov distance of the delays."""

    profile: str
    netem: str
    ours: Side
    theirs: Side
    apart: float


class NetemReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one run measured."""

    machine: Machine
    kernel: str
    bare: Side
    """In the virtual machine, without netem: what its emulation alone adds."""
    profiles: list[Compared]


def netem_arguments(spec: Direction) -> str:
    """`spec` in the words of tc-netem; its jitter is the table ``exponential`` of `table`."""
    limit = max(10, int(spec.rate_mbit * 1e6 / 8 * spec.queue_ms / 1e3 / 1428))
    words = f"limit {limit} delay {spec.delay_ms + spec.jitter_ms}ms {spec.jitter_ms}ms"
    words += f" distribution exponential rate {spec.rate_mbit}mbit"
    if spec.bursts:
        bad, good, lost = (f"{100 * share:g}%" for share in spec.bursts)
        words += f" loss gemodel {bad} {good} {lost} 0%"
    return words


def table() -> str:
    """For netem, an exponential distribution: its quantiles, mean 0 and deviation `SCALE`."""
    shares = (np.arange(TABLE) + 0.5) / TABLE
    values = np.clip(np.rint((-np.log1p(-shares) - 1) * SCALE), -32768, 32767).astype(int)
    return "\n".join(" ".join(map(str, row)) for row in values.reshape(-1, 8)) + "\n"


class Guest:
    """Commands in the running virtual machine."""

    def __init__(self, key: Path) -> None:
        self._ssh = ["-i", str(key), "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"]
        self._ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60"]

    def run(self, command: str, *, check: bool = True, given: bytes = b"") -> str:
        """Its standard output."""
        line = ["ssh", *self._ssh, "-p", str(PORT), "root@127.0.0.1", command]
        done = subprocess.run(line, capture_output=True, input=given, check=False)
        if check and done.returncode:
            raise SystemExit(f"{command}: {done.stderr.decode()[-500:]}")
        return done.stdout.decode() if not done.returncode else ""

    def put(self, files: list[Path], folder: str) -> None:
        """Copies `files`, links followed, into `folder`."""
        subprocess.run(
            ["scp", "-q", *self._ssh, "-P", str(PORT), *files, f"root@127.0.0.1:{folder}"],
            check=True,
        )


@contextmanager
def booted() -> Iterator[Guest]:
    """A virtual machine with Debian's kernel, with this machine's ip and tc."""
    with tempfile.TemporaryDirectory(prefix="netem-") as name:
        folder = Path(name)
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        subprocess.run([SCRIPT, "build", "vm"], check=True)
        command = [SCRIPT, "run", "vm", folder / "vm", str(PORT), f"{key}.pub"]
        vm = subprocess.Popen(command, start_new_session=True)
        try:
            found, until = Guest(key), time.monotonic() + 900
            while not found.run("echo up", check=False):
                if vm.poll() is not None or time.monotonic() > until:
                    raise SystemExit("the virtual machine did not come up")
                time.sleep(2)
            _bring_tools(found)
            yield found
        finally:
            os.killpg(vm.pid, 9)
            vm.wait()


def _bring_tools(found: Guest) -> None:
    """Brings ip and tc of this machine, which has the same Debian, with the libraries they load."""
    found.run("mkdir -p /opt/net /usr/lib/tc && modprobe sch_netem && modprobe veth")
    tools = [Path(subprocess.check_output(["which", t], text=True).strip()) for t in ("ip", "tc")]
    loaded = subprocess.check_output(["ldd", *tools], text=True).split()
    libraries = {Path(word) for word in loaded if word.startswith("/lib/")}
    found.put([*tools, HERE / "netem_probe.py", *sorted(libraries)], "/opt/net")
    found.run("cat > /usr/lib/tc/exponential.dist", given=table().encode())


def probed_there(found: Guest, words: str, rate_mbit: float) -> dict[str, object]:
    """What the probes find in the virtual machine with netem as `words` say; without, if empty."""
    ip, tc = (f"LD_LIBRARY_PATH=/opt/net /opt/net/{tool}" for tool in ("ip", "tc"))
    lines = [
        f"{ip} netns del robot; {ip} netns del cloud",
        f"{ip} netns add robot && {ip} netns add cloud",
        f"{ip} link add r netns robot type veth peer name c netns cloud",
        f"{ip} -n robot addr add 10.77.0.1/24 dev r && {ip} -n cloud addr add {CLOUD}/24 dev c",
        f"{ip} -n robot link set r up && {ip} -n cloud link set c up",
    ]
    if words:
        lines.append(f"TC_LIB_DIR=/usr/lib/tc {tc} -n robot qdisc add dev r root netem {words}")
    found.run("; ".join(lines[:1]) + " ; " + " && ".join(lines[1:]))
    probe = f"python3 /opt/net/netem_probe.py robot cloud {CLOUD} {COUNT} {GAP_MS} {rate_mbit}"
    answer: dict[str, object] = json.loads(found.run(probe))
    return answer


def probed_here(name: str, seed: int) -> dict[str, object]:
    """What the probes find in our laboratory."""
    with hosts(name, seed) as places:
        command = [sys.executable, HERE / "netem_probe.py", places.robot, places.cloud]
        command += [places.cloud_address, str(COUNT), str(GAP_MS), str(profile(name).up.rate_mbit)]
        return json.loads(subprocess.check_output(command))


def side(found: dict[str, object]) -> Side:
    """The figures of one side."""
    delays = np.array(found["delays_ms"])
    p5, p50, p95, p99 = (round(float(q), 2) for q in np.percentile(delays, (5, 50, 95, 99)))
    sent = int(str(found["sent"]))
    return Side(
        sent=sent,
        lost=wilson(sent - len(delays), sent),
        p5_ms=p5,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        offered_mbit=float(str(found["offered_mbit"])),
        rate_mbit=float(str(found["rate_mbit"])),
    )


def apart(ours: object, theirs: object) -> float:
    """The Kolmogorov-Smirnov distance of two samples: the widest gap of their distributions."""
    a, b = np.sort(np.array(ours)), np.sort(np.array(theirs))
    at = np.concatenate((a, b))
    gaps = np.searchsorted(a, at, "right") / len(a) - np.searchsorted(b, at, "right") / len(b)
    return round(float(np.abs(gaps).max()), 4)


def main() -> None:
    """Boots, probes both in turns, prints a line each, and writes the JSON."""
    before = machine.load()
    found = []
    with booted() as vm:
        kernel = vm.run("uname -r").strip()
        bare = side(probed_there(vm, "", 1.0))
        for seed, name in enumerate(NAMES):
            words = netem_arguments(profile(name).up)
            theirs = probed_there(vm, words, profile(name).up.rate_mbit)
            ours = probed_here(name, seed)
            found.append(
                Compared(
                    profile=name,
                    netem=words,
                    ours=side(ours),
                    theirs=side(theirs),
                    apart=apart(ours["delays_ms"], theirs["delays_ms"]),
                )
            )
            sys.stdout.write(f"{found[-1]}\n")
            sys.stdout.flush()
    report = NetemReport(
        machine=machine.machine(0, before), kernel=kernel, bare=bare, profiles=found
    )
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


if __name__ == "__main__":
    main()
