"""A virtual machine with a camera and a sound card: Debian's kernel with `vivid`, `snd-aloop`.

It has no disk: its kernel is the one that is installed here (it need not run here), and its files
are this machine's, read only, over 9p; so the very same Python and packages run in it. QEMU
emulates (no KVM), which is slow but real: device nodes, drivers, ioctls.

    python tests/runtimes/device_vm.py OUT COMMAND...    # runs COMMAND in it; it may write to OUT
"""

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = ("virtio_pci", "9pnet_virtio", "9p", "vivid", "snd-aloop")
OPTIONS = {"vivid": "n_devs=1 node_types=0x1", "snd-aloop": "pcm_substreams=1"}
PACKAGES = "qemu-system-x86 linux-image-amd64 busybox-static cpio"
OUT = "/mnt"
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /host
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
{insmod}
o=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o ro,$o,cache=loose host /host || $b poweroff -f
for d in /tmp /run; do $b mount -t tmpfs tmp /host$d; done
$b mount -t 9p -o $o out /host{out}
for d in proc sys dev; do $b mount --move /$d /host/$d; done
$b chroot /host /bin/sh {out}/session.sh
$b poweroff -f
"""
SESSION = """mkdir -p /dev/shm; mount -t tmpfs tmp /dev/shm
export HOME=/tmp; cd {folder}
{{
{command}
}} >{out}/output.txt 2>&1
echo $? >{out}/exit.txt; sync
"""


def kernel():
    """The newest kernel with those modules: its release; None for none."""
    found = sorted(Path("/lib/modules").glob("*/kernel/drivers/media/test-drivers/vivid"))
    releases = [path.parts[3] for path in found if Path(f"/boot/vmlinuz-{path.parts[3]}").exists()]
    return releases[-1] if releases else None


def missing():
    """Why no such machine can run here; empty if it can."""
    if platform.machine() != "x86_64":
        return "the virtual machine is an x86-64 one"
    tools = ("qemu-system-x86_64", "cpio", "/sbin/modprobe", "/bin/busybox")
    lacking = [tool for tool in tools if shutil.which(tool) is None]
    if lacking or kernel() is None:
        return f"needs Debian's {PACKAGES} (no {', '.join(lacking) or 'kernel with vivid'})"
    return ""


def run(out, command, limit_s=200):
    """The exit code of `command` (a shell line) in the machine, and what it printed."""
    with tempfile.TemporaryDirectory() as scratch:
        image = initramfs(Path(scratch))
        session = SESSION.format(command=command, out=OUT, folder=Path.cwd())
        (Path(out) / "session.sh").write_text(session)
        shares = []
        for tag, path, more in (("host", "/", ",readonly=on"), ("out", out, "")):
            share = f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}"
            shares += ["-virtfs", share]
        console = Path(out) / "console.txt"
        with console.open("w") as log:
            subprocess.run(
                [
                    *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max"),
                    *("-smp", "2", "-m", "1536", "-nographic", "-no-reboot", "-nic", "none"),
                    *("-kernel", f"/boot/vmlinuz-{kernel()}", "-initrd", str(image)),
                    *("-append", "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check"),
                    *shares,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=limit_s,
                check=False,
            )
    code = Path(out) / "exit.txt"
    assert code.exists(), f"it did not come so far: {console.read_text()[-2000:]}"
    return int(code.read_text()), (Path(out) / "output.txt").read_text()


def initramfs(scratch):
    """What the kernel starts with: BusyBox, the modules, and an init that runs the session."""
    root = scratch / "root"
    (root / "bin").mkdir(parents=True)
    (root / "modules").mkdir()
    shutil.copy("/bin/busybox", root / "bin/busybox")
    loads = []
    for path, options in modules():
        shutil.copy(path, root / "modules" / path.name)
        loads.append(f"$b insmod /modules/{path.name} {options}")
    (root / "init").write_text(INIT.format(insmod="\n".join(loads), out=OUT))
    (root / "init").chmod(0o755)
    image = scratch / "initrd"
    names = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    with image.open("wb") as packed:
        pack = ["cpio", "--quiet", "-o", "-H", "newc"]
        subprocess.run(pack, cwd=root, input=names, stdout=packed, check=True)
    return image


def modules():
    """Each module file that is needed, in order, with its options."""
    found = {}
    for name in MODULES:
        ask = ["/sbin/modprobe", "-S", kernel(), "--show-depends", name]
        told = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
        paths = [Path(line.split()[1]) for line in told.splitlines() if line.startswith("insmod")]
        for path in paths[:-1]:
            found.setdefault(path, "")
        found[paths[-1]] = OPTIONS.get(name, "")
    return found.items()


if __name__ == "__main__":
    code, said = run(sys.argv[1], " ".join(sys.argv[2:]))
    sys.stdout.write(said)
    sys.exit(code)
