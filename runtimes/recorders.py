"""Who else gets the steps of a run: the flight log, and the people who look on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from jepa_edge.contract import FloatArray, Senses
from jepa_edge.front import stderr
from jepa_edge.runtimes.flight import FlightLog, Header
from jepa_edge.runtimes.loop import Loop, Recorder, Tick
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.view import View
from jepa_edge.runtimes.viewer import Viewer


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
def watched(
    where: str | None, senses: Senses, viewer: Viewer | None, loop: Loop
) -> Iterator[Recorder | None]:
    """The view that is asked for; None if none is. What it missed is told at the end.

    Of a model that predicts nothing by itself, it is shown where the plan of `loop` leads.
    """
    if where is None:
        yield None
        return

    def look(
        step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        view.add(step, tick, pooled, loop.planned if future is None else future)

    with closing(View(where, senses, viewer)) as view:
        yield look
    if view.missed or view.trouble:
        why = f" ({view.trouble})" if view.trouble else ""
        stderr.print(f"the view missed {view.missed} steps{why}; the run did not wait for it")


def recording(*given: Recorder | None) -> Recorder | None:
    """All that are `given` as one; None for none."""
    recorders = [one for one in given if one]
    if not recorders:
        return None

    def record(
        step: StepData, tick: Tick, pooled: FloatArray | None, future: FloatArray | None
    ) -> None:
        for one in recorders:
            one(step, tick, pooled, future)

    return record
