"""One graph for many robots: calls queue, and several are computed together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
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
        wait_ms: how long the first call of a batch waits for others.
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


class BatchingEngine:
    """An `Engine` that any number of threads may call at once.

    A graph of the bundle that was exported for a batch (its name ends in ``@N``) computes up to N
    calls in one go, padded when there are fewer; without one, calls share `parallel` engines.
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
        sizes = [int(name.partition("@")[2]) for name in graphs if name.startswith(f"{graph}@")]
        sizes = [size for size in sizes if size <= config.most]
        self.size = max(sizes, default=1)
        single = open_engine(bundle, graph, precision, threads=config.threads)
        self.inputs: list[TensorSpec] = single.inputs
        self.outputs: list[TensorSpec] = single.outputs
        self.precision_used = single.precision_used
        self._calls: queue.Queue[_Call | None] = queue.Queue(config.waiting)
        self._threads = []
        for number in range(config.parallel):
            engine = single
            if number:
                engine = open_engine(bundle, graph, precision, threads=config.threads)
            many = None
            if self.size > 1:
                name = f"{graph}@{self.size}"
                many = open_engine(bundle, name, precision, threads=config.threads)
            self._threads.append(
                threading.Thread(target=self._work, args=(engine, many), daemon=True)
            )
        for thread in self._threads:
            thread.start()

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`. Raises `ExpiredError` or `OverloadedError` too."""
        call = _Call({s.name: inputs[s.name] for s in self.inputs}, Future(), DEADLINE.get())
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

    def _work(self, single: Engine, many: Engine | None) -> None:
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
        until = time.monotonic() + self.config.wait_ms / 1e3
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

    def _compute(self, calls: list[_Call], single: Engine, many: Engine | None) -> None:
        if many is None or len(calls) == 1:
            for call in calls:
                lent = single.run(call.inputs)  # an engine may use its buffers again at once
                call.answer.set_result({name: array.copy() for name, array in lent.items()})
            return
        filled = [calls[min(k, len(calls) - 1)].inputs for k in range(self.size)]
        joined = {s.name: np.concatenate([f[s.name] for f in filled]) for s in self.inputs}
        outputs = many.run(joined)
        for k, call in enumerate(calls):
            parts = {}
            for spec in self.outputs:
                rows = spec.shape[0]
                parts[spec.name] = outputs[spec.name][k * rows : (k + 1) * rows].copy()
            call.answer.set_result(parts)
