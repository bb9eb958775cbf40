"""Who else gets the steps of a run: the flight log, and the people who look on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from jepa_edge.contract import FloatArray, Senses
from jepa_edge.front import stderr
from jepa_edge.runtimes.flight import FlightLog, Header
from jepa_edge.runtimes.loop import Recorder, Tick
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.view import View


@contextmanager
def flight_log(path: Path | None, header: Header, senses: Senses) -> Iterator[FlightLog | None]:
    """The log that is asked for; None if none is. What is missing from it is told at the end."""
    if path is None:
        yield None
        return
    log = FlightLog(path, header, senses)
    try:
        yield log
    finally:
        log.close()
    if log.trouble:
        stderr.print(f"the flight log is not whole ({log.trouble}): {log.lost} steps are lost")


@contextmanager
def watched(where: str | None, senses: Senses) -> Iterator[View | None]:
    """The view that is asked for; None if none is. What it missed is told at the end."""
    if where is None:
        yield None
        return
    with closing(View(where, senses)) as view:
        yield view
    if view.missed or view.trouble:
        why = f" ({view.trouble})" if view.trouble else ""
        stderr.print(f"the view missed {view.missed} steps{why}; the run did not wait for it")


def recording(recorders: Sequence[Recorder]) -> Recorder | None:
    """All of `recorders` as one; None for none."""
    if not recorders:
        return None

    def record(
        step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        for one in recorders:
            one(step, tick, pooled, future)

    return record
