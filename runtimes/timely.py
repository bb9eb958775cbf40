"""A tick in time, or a hold: what watches over an engine that does not come back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterator

from jepa_edge.runtimes.loop import Tick

JOIN_S = 2.0
LATE = "late: "


def timely(ticks: Iterator[Tick], limit_s: float) -> Generator[Tick]:
    """The `ticks`, made in a thread of their own; when none comes for `limit_s`, a hold instead.

    The hold comes again each `limit_s` until there is a tick. What an engine that hung gives at
    last is judged by its age like any other. An error of the loop is raised here.
    """
    made: queue.Queue[Tick | BaseException | None] = queue.Queue(1)
    stop = threading.Event()
    maker = threading.Thread(target=_make, args=(ticks, made, stop), name="loop", daemon=True)
    maker.start()
    last: Tick | None = None
    try:
        while True:
            try:
                found = made.get(timeout=limit_s)
            except queue.Empty:
                yield _late(last, limit_s)
                continue
            if found is None:
                return
            if isinstance(found, BaseException):
                raise found
            last = found
            yield found
    finally:
        stop.set()
        maker.join(JOIN_S)


def _make(
    ticks: Iterator[Tick],
    made: queue.Queue[Tick | BaseException | None],
    stop: threading.Event,
) -> None:
    last: BaseException | None = None
    try:
        for tick in ticks:
            if not _handed(made, tick, stop):
                return
    except BaseException as error:  # noqa: BLE001  (it is raised where the ticks are taken)
        last = error
    _handed(made, last, stop)


def _handed(
    made: queue.Queue[Tick | BaseException | None],
    item: Tick | BaseException | None,
    stop: threading.Event,
) -> bool:
    while not stop.is_set():
        try:
            made.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _late(last: Tick | None, limit_s: float) -> Tick:
    captured_ns = last.captured_ns if last else time.monotonic_ns()
    return Tick(
        step=last.step if last else -1,
        captured_ns=captured_ns,
        state="hold",
        reason=f"{LATE}nothing came of the last step for {limit_s:.2f} s",
        age_ms=round((time.monotonic_ns() - captured_ns) / 1e6, 3),
    )


def is_late(tick: Tick) -> bool:
    """Whether `tick` stands for one that did not come."""
    return tick.reason.startswith(LATE)
