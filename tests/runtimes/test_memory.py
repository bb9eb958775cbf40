"""Mapped weights that nobody reads just now are not held in memory."""

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from jepa_edge.runtimes.memory import LARGE_BYTES, _mapped_files, let_go


def resident_mib_of_files():
    status = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in status if line.startswith("RssFile"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path):
    words = 2 * LARGE_BYTES // 8
    np.arange(words, dtype=np.int64).tofile(tmp_path / "weights.bin")
    with (tmp_path / "weights.bin").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    before = resident_mib_of_files()
    weights = np.frombuffer(mapped, np.int64)
    total = int(weights.sum())
    held = resident_mib_of_files()
    assert held > before + 60
    let_go()
    assert resident_mib_of_files() < held - 60
    assert int(weights.sum()) == total == words * (words - 1) // 2


def test_only_large_files_that_are_only_read_are_found():
    size = f"{LARGE_BYTES:x}"
    lines = [
        f"0-{size} r--p 00000000 fe:00 1   /models/with space/encoder.onnx.data",
        f"0-{size} r--p 00000000 fe:00 2   /usr/lib/libtorch_cpu.so",
        f"0-{size} rw-p 00000000 fe:00 3   /models/written.bin",
        f"0-{size} r--p 00000000 00:00 0   ",
        f"0-{size} r--p 00000000 00:00 0   [vvar]",
        "0-1000 r--p 00000000 fe:00 4   /usr/lib/locale/locale-archive",
    ]
    assert _mapped_files("\n".join(lines)) == [(0, LARGE_BYTES)]
