"""One graph for many robots: calls queue, and several are computed together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import ContextVar

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle, Graph, base_name
from jepa_edge.contract import CheckFailedError, Tensors, TensorSpec
from jepa_edge.runtimes.engine import Engine, open_engine

DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)
"""`time.monotonic()` after which nobody waits for the answer to the current request."""


class ExpiredError(CheckFailedError):
    """The deadline passed while the call was still waiting: it is not computed."""


class OverloadedError(CheckFailedError):
    """Too many calls wait already; refused at once rather than late."""


class BatchConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How calls are put together.

    Attributes:
        most: calls in one batch, at the most; 1 computes each alone.
        wait_ms: how long the first call of a batch waits for others. It does so only when it came
            no later than that after the call before it: a lone robot never waits.
        parallel: engines that compute at the same time.
        waiting: calls that may wait; one more is refused.
        threads: of each engine; 0 lets it choose.
    """

    most: int = 8
    wait_ms: float = 2.0
    parallel: int = 1
    waiting: int = 256
    threads: int = 0


class _Call(msgspec.Struct, frozen=True):
    inputs: Tensors
    answer: Future[Tensors]
    deadline: float | None
    follows: bool
    """Whether another call came shortly before."""


class BatchingEngine:
    """An `Engine` that any number of threads may call at once.

    A graph of the bundle that was exported for several robots (its name ends in ``@N``) computes up
    to N calls in one go: it is opened for 2, 4, 8… robots, and what is lacking to the next size is
    padded. Without one, calls share `parallel` engines.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: str,
        precision: str | None,
        config: BatchConfig,
        observe: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        self.graph, self.config, self._observe = graph, config, observe
        graphs = bundle.manifest.precision(precision).batched
        sizes = _sizes(graph, graphs, config.most)
        self.size = max(sizes, default=1)
        single = open_engine(bundle, graph, precision, threads=config.threads)
        self.inputs: list[TensorSpec] = single.inputs
        self.outputs: list[TensorSpec] = single.outputs
        self.precision_used = single.precision_used
        self._called_s = -1e9
        self._calls: queue.Queue[_Call | None] = queue.Queue(config.waiting)
        self._threads = []
        for number in range(config.parallel):
            engine = single
            if number:
                engine = open_engine(bundle, graph, precision, threads=config.threads)
            many = {
                rows: open_engine(bundle, name, precision, threads=config.threads, rows=rows)
                for rows, name in sizes.items()
            }
            _warm(engine, *many.values())
            self._threads.append(
                threading.Thread(target=self._work, args=(engine, many), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`. Raises `ExpiredError` or `OverloadedError` too."""
        now, before = time.monotonic(), self._called_s
        self._called_s = now
        follows = now - before <= self.config.wait_ms / 1e3
        given = {spec.name: inputs[spec.name] for spec in self.inputs}
        call = _Call(given, Future(), DEADLINE.get(), follows)
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise OverloadedError(
                f"{self.config.waiting} calls of {self.graph} wait already; try again later"
            ) from None
        return call.answer.result()

    def close(self) -> None:
        """Ends the workers when what waits is computed."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, single: Engine, many: dict[int, Engine]) -> None:
        while (first := self._calls.get()) is not None:
            calls, ends = self._more([first] if self._is_wanted(first) else [])
            began = time.perf_counter()
            try:
                if calls:
                    self._compute(calls, single, many)
                    self._observe(self.graph, len(calls), time.perf_counter() - began)
            except Exception as error:  # noqa: BLE001  (the callers' to handle; workers live on)
                for call in calls:
                    if not call.answer.done():
                        call.answer.set_exception(error)
            if ends:
                return

    def _more(self, calls: list[_Call]) -> tuple[list[_Call], bool]:
        """`calls` and those that come within the wait; whether the workers were told to end."""
        patient = bool(calls) and calls[0].follows
        until = time.monotonic() + (self.config.wait_ms / 1e3 if patient else 0.0)
        while calls and len(calls) < self.size:
            try:
                left = until - time.monotonic()
                call = self._calls.get(timeout=left) if left > 0 else self._calls.get_nowait()
            except queue.Empty:
                break
            if call is None:
                return calls, True
            if self._is_wanted(call):
                calls.append(call)
        return calls, False

    def _is_wanted(self, call: _Call) -> bool:
        if call.deadline is not None and time.monotonic() > call.deadline:
            call.answer.set_exception(ExpiredError(f"{self.graph}: the deadline passed in line"))
            return False
        return call.answer.set_running_or_notify_cancel()

    def _compute(self, calls: list[_Call], single: Engine, many: dict[int, Engine]) -> None:
        if not many or len(calls) == 1:
            for call in calls:
                lent = single.run(call.inputs)  # an engine may use its buffers again at once
                call.answer.set_result({name: array.copy() for name, array in lent.items()})
            return
        size = min(rows for rows in many if rows >= len(calls))
        filled = [calls[min(k, len(calls) - 1)].inputs for k in range(size)]
        joined = {s.name: np.concatenate([f[s.name] for f in filled]) for s in self.inputs}
        outputs = many[size].run(joined)
        for k, call in enumerate(calls):
            parts = {}
            for spec in self.outputs:
                rows = spec.shape[0]
                parts[spec.name] = outputs[spec.name][k * rows : (k + 1) * rows].copy()
            call.answer.set_result(parts)


def _warm(*engines: Engine) -> None:
    """Lets each compute once: a first call can take a hundred times as long as the next."""
    for engine in engines:
        engine.run({spec.name: spec.zeros() for spec in engine.inputs})


def _sizes(graph: str, batched: Mapping[str, Graph], most: int) -> dict[int, str]:
    """By the number of calls at once the graph that computes them, up to `most`.

    A graph with a free first axis is used for every power of two, and for its full size.
    """
    found: dict[int, str] = {}
    for name, entry in batched.items():
        if base_name(name) != graph:
            continue
        full = int(name.removeprefix(f"{graph}@"))
        sizes = [full]
        if entry.inputs[0].shape[0] == -1:
            full = min(full, most)
            sizes = [*(2**k for k in range(1, full.bit_length()) if 2**k < full), full]
        found |= {rows: name for rows in sizes if 1 < rows <= most}
    return found
