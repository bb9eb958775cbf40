"""A virtual drone for the tests: real systemd and OpenSSH, started by the script in examples/."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "virtual_drone.sh"
NEEDED = {
    "amd64": ["systemd-nspawn"],
    "arm64": ["systemd-nspawn", "qemu-aarch64-static", "update-binfmts", "arch-test"],
    "vm": ["qemu-system-x86_64", "mkfs.ext4"],
}
FIND = """
import os, signal, sys
for pid in os.listdir('/proc'):
    try:
        line = open('/proc/%s/cmdline' % pid, 'rb').read().replace(b'\\0', b' ').decode()
    except (OSError, ValueError):
        continue
    if pid.isdigit() and int(pid) != os.getpid() and sys.argv[1] in line:
        os.kill(int(pid), int(sys.argv[2]))
        print(pid, line)
"""


def why_not(arch):
    """Why no virtual drone can run here; empty when one can."""
    if os.getuid() != 0:
        return "a virtual drone needs root"
    needed = ["mmdebstrap", "ssh-keygen", *NEEDED[arch]]
    lacking = [tool for tool in needed if shutil.which(tool) is None]
    return f"not installed: {', '.join(lacking)} (.ci/packages)" if lacking else ""


def root_folder(arch):
    """Where the script keeps the root file system of `arch`."""
    return Path(subprocess.check_output([SCRIPT, "where", arch], text=True).strip())


def build(arch):
    """Makes the root file system unless it is there; skips where this machine cannot."""
    done = subprocess.run([SCRIPT, "build", arch], capture_output=True, text=True, check=False)
    if done.returncode == 2:  # what the script lacks here; anything else is a failure
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


class Drone:
    """One running drone; `host` is its name in the SSH configuration that `home` holds."""

    def __init__(self, arch, folder, home):
        self.arch, self.folder, self.home = arch, folder, home
        self.port = free_port()
        self.host = f"drone{self.port}"
        self.key = home / ".ssh" / "id_ed25519"
        self.key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)])
        build(arch)
        self.process = None
        self.start()
        self.trust_host_key()

    def start(self):
        """Powers it on, and waits until SSH answers."""
        command = [SCRIPT, "run", self.arch, self.folder, str(self.port), f"{self.key}.pub"]
        self.process = subprocess.Popen(command, start_new_session=True)
        self.wait_for_ssh()

    def wait_for_ssh(self, seconds=300):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as peer:
                    if peer.recv(4) == b"SSH-":
                        return
            except OSError:
                assert self.process.poll() is None, (self.folder / "console.log").read_text()
            time.sleep(0.2)
        raise TimeoutError(f"no SSH on {self.port}: {(self.folder / 'console.log').read_text()}")

    def trust_host_key(self):
        """Puts its host key, read from its own disk, into known_hosts, and its name into config."""
        key = (root_folder(self.arch) / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
        with (self.key.parent / "known_hosts").open("a") as file:
            file.write(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")
        with (self.key.parent / "config").open("a") as file:
            file.write(
                f"Host {self.host}\n  HostName 127.0.0.1\n  Port {self.port}\n  User root\n"
                f"  IdentityFile {self.key}\n"
                f"  UserKnownHostsFile {self.key.parent / 'known_hosts'}\n"
            )

    @property
    def init(self):
        """The process id, here, of its systemd."""
        children = subprocess.run(
            ["pgrep", "-f", f"nspawn.*--machine=drone-{self.port} "],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for parent in children.stdout.split():
            child = subprocess.run(["pgrep", "-P", parent], capture_output=True, text=True)
            for pid in child.stdout.split():
                if Path(f"/proc/{pid}/comm").read_text().strip() in ("systemd", "init"):
                    return pid
        raise ProcessLookupError("the drone is off")

    def inside(self, *argv, check=True, data=None):
        """What a command prints that runs inside, without SSH."""
        command = ["nsenter", "-t", self.init, "-m", "-u", "-i", "-n", "-p", "--", *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input=data)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    def kill(self, words, number=signal.SIGKILL):
        """Sends a signal to every process inside whose command line holds `words`."""
        return self.inside("python3", "-c", FIND, words, str(int(number)))

    def agent(self, *arguments, check=True):
        return self.inside("python3", "/opt/jepa-edge/agent.pyz", *arguments, check=check)

    def power_off(self):
        """Every process inside dies at once."""
        os.kill(int(self.init), signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


class Machine(Drone):
    """A drone with a kernel, a memory and a disk of its own: its power can be cut."""

    def __init__(self, folder, home):
        super().__init__("vm", folder, home)

    def inside(self, *argv, check=True, data=None):
        """What a command prints there, over SSH."""
        command = ["ssh", "-F", str(self.key.parent / "config"), self.host, shlex.join(argv)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input=data)
        if check and done.returncode != 0:
            raise AssertionError(f"{argv}: {done.stdout}{done.stderr}")
        return done.stdout

    def power_off(self):
        """Cuts the power: what the guest has not flushed to its disk is gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(argv):
    subprocess.run(argv, check=True, stdout=sys.stderr)
