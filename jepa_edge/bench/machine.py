"""What the measuring machine is, read from the operating system."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from jepa_edge.bench.facts import Machine

LIBRARIES = ("jepa-edge", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "av")


def machine(threads: int, load_at_start: float) -> Machine:
    """The facts of this machine; `load_at_start` is `load()` from before the measurement."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30, 1),
        load_1min=round(load_at_start, 2),
        load_1min_end=round(load(), 2),
        threads=threads,
        versions=_versions(),
    )


def load() -> float:
    """Processes that wanted to run, averaged over the last minute."""
    return os.getloadavg()[0]


def status_mib(field: str) -> float:
    """A size of this process in MiB; `field` is VmRSS (now) or VmHWM (peak), proc(5)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> dict[str, str]:
    installed = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    found = {name: installed[name] for name in LIBRARIES if name in installed}
    return {"python": platform.python_version()} | found
