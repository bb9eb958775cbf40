"""A tick in time, or a hold: what watches over an engine that does not come back."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from jepa_edge.runtimes.loop import Tick
from jepa_edge.runtimes.pulse import Pulse

JOIN_S = 2.0
LATE = "late: "
LOOK_S = 0.01


class Timely:
    """The `ticks`, made in a thread of their own; a hold instead of one that does not come.

    That is when a stage hangs, by `pulse`, or none came for `limit_s`; the hold comes again each
    `limit_s` until there is a tick. What an engine that hung gives at last is judged by its age
    like any other. An error of the loop is raised here. `close` waits for the thread: whoever is
    told to stop first gives the controller its last hold.
    """

    def __init__(self, ticks: Iterator[Tick], limit_s: float, pulse: Pulse | None = None) -> None:
        self.limit_s, self.pulse = limit_s, pulse or Pulse()
        self._made: queue.Queue[Tick | BaseException | None] = queue.Queue(1)
        self._stop = threading.Event()
        self._maker = threading.Thread(target=self._make, args=(ticks,), name="loop", daemon=True)
        self._last: Tick | None = None
        self._heard_s = time.monotonic()
        self._told = False
        self._maker.start()

    def __iter__(self) -> Iterator[Tick]:
        return self

    def __next__(self) -> Tick:
        """The next tick, or a hold in its place."""
        while True:
            try:
                found = self._made.get(timeout=min(LOOK_S, self.limit_s))
            except queue.Empty:
                if late := self._late():
                    return late
                continue
            if found is None:
                raise StopIteration
            if isinstance(found, BaseException):
                raise found
            self._last, self._heard_s, self._told = found, time.monotonic(), False
            return found

    def close(self) -> None:
        """Ends the thread, unless it hangs: then it is left behind."""
        self._stop.set()
        self._maker.join(JOIN_S)

    def _late(self) -> Tick | None:
        waited_s, hung_s = time.monotonic() - self._heard_s, self.pulse.hung_s()
        if hung_s is not None and not self._told:
            why = f"the engine has not answered for {hung_s:.2f} s"
        elif waited_s >= self.limit_s:
            why = f"nothing came of the last step for {waited_s:.2f} s"
        else:
            return None
        self._told, self._heard_s = True, time.monotonic()
        now_ns, last = time.monotonic_ns(), self._last
        captured_ns = last.captured_ns if last else now_ns
        return Tick(
            step=last.step if last else -1,
            captured_ns=captured_ns,
            state="hold",
            reason=LATE + why,
            age_ms=round((now_ns - captured_ns) / 1e6, 3),
        )

    def _make(self, ticks: Iterator[Tick]) -> None:
        last: BaseException | None = None
        try:
            for tick in ticks:
                if not self._handed(tick):
                    return
        except BaseException as error:  # noqa: BLE001  (it is raised where the ticks are taken)
            last = error
        self._handed(last)

    def _handed(self, item: Tick | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._made.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def is_late(tick: Tick) -> bool:
    """Whether `tick` stands for one that did not come."""
    return tick.reason.startswith(LATE)
