"""Where ticks go."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

import msgspec

from jepa_edge.contract import WrongUseError
from jepa_edge.runtimes.loop import Tick

KNOWN = "stdout, file:PATH, none"


class Sink(Protocol):
    """Takes each tick at once."""

    def take(self, tick: Tick) -> bool:
        """Hands over one tick; False when nobody listens any more."""


class JsonLines:
    """One JSON object a line."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def take(self, tick: Tick) -> bool:
        """Writes the tick and flushes, so that a reader has it at once."""
        try:
            self.out.write(msgspec.json.encode(tick).decode() + "\n")
            self.out.flush()
        except BrokenPipeError:
            if self.out is sys.stdout:  # or Python complains when it flushes at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return False
        return True


class Nowhere:
    """Takes and forgets."""

    def take(self, tick: Tick) -> bool:  # noqa: ARG002  (a sink)
        """Does nothing with the tick."""
        return True


@contextmanager
def open_sink(uri: str) -> Iterator[Sink]:
    """The sink at `uri`: ``stdout``, ``file:PATH`` or ``none``.

    A file has its name only when the run has ended; until then it is ``PATH.part``.

    Raises `WrongUseError` for another `uri`, or a file that cannot be written.
    """
    if uri == "stdout":
        yield JsonLines(sys.stdout)
    elif uri == "none":
        yield Nowhere()
    elif uri.startswith("file:"):
        path = Path(uri.removeprefix("file:"))
        part = path.with_name(path.name + ".part")
        try:
            out = part.open("w")
        except OSError as error:
            raise WrongUseError(f"controller {uri}: cannot write there: {error}") from error
        with out:
            yield JsonLines(out)
        part.replace(path)
    else:
        raise WrongUseError(f"unknown controller {uri!r}; known: {KNOWN}")
