"""Where ticks go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import msgspec

from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.loop import Tick


class Sink(Protocol):
    """Takes each tick at once."""

    def take(self, tick: Tick) -> None:
        """Hands over one tick."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def take(self, tick: Tick) -> None:
        """Writes the tick and flushes, so that a reader has it at once."""
        self.out.write(msgspec.json.encode(tick).decode() + "\n")
        self.out.flush()


class Nowhere:
    """Takes and forgets."""

    def take(self, tick: Tick) -> None:
        """Does nothing with the tick."""


@contextmanager
def open_sink(uri: str) -> Iterator[Sink]:
    """The sink at `uri`: ``stdout``, ``file:PATH`` or ``none``; others are a `WrongUseError`."""
    if uri == "stdout":
        yield JsonLines(sys.stdout)
    elif uri == "none":
        yield Nowhere()
    elif uri.startswith("file:"):
        path = Path(uri.removeprefix("file:"))
        part = path.with_name(path.name + ".part")
        with part.open("w") as out:
            yield JsonLines(out)
        part.replace(path)
    else:
        raise WrongUseError(f"unknown controller {uri!r}; known: stdout, file:PATH, none")
