"""Giving memory back to the system while a large model is exported."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import sys
from pathlib import Path

LARGE_BYTES = 1 << 25
MAPS = Path("/proc/self/maps")


def let_go() -> None:
    """Gives back what was freed, which glibc does not do by itself, and pages of mapped weights.

    Engines map the files of weights; what they have read of them counts as resident until somebody
    else needs the memory. Whoever still uses such a file reads it again.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        for begin, size in _mapped_files(MAPS.read_text()):
            library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def _mapped_files(maps: str) -> list[tuple[int, int]]:
    """Address and size of each large read-only part of a file in `maps`, libraries left out."""
    found = []
    for line in maps.splitlines():
        addresses, rights, *_, name = line.split(maxsplit=5)
        begin, end = (int(address, 16) for address in addresses.split("-"))
        data = rights.startswith("r--") and name.startswith("/") and ".so" not in name
        if data and end - begin >= LARGE_BYTES:
            found.append((begin, end - begin))
    return found
