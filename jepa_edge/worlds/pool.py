"""Work in several processes, as each renderer needs its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from jepa_edge.contract import CheckFailedError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_processes(
    work: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """Yields what `work`, a module's function, returns of each of `jobs`, as they are finished.

    Raises `CheckFailedError` when a process was killed.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _follow_the_parent)
    try:
        for job in as_completed([pool.submit(work, job) for job in jobs]):
            yield job.result()
    except BrokenProcessPool as error:
        raise CheckFailedError(
            "one of the processes was killed (out of memory?); run again to go on where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_the_parent() -> None:
    """Leaves an interrupt to the parent, and ends with it: a pool's processes outlive a SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # at once: what is half-written has a .part name
