"""Split inference: the encoder on board, the planner on a server; only pooled latents go up."""

from __future__ import annotations

import itertools
import uuid
from collections import deque
from typing import Literal

import numpy as np

from jepa_edge.contract import FloatArray, Tensors
from jepa_edge.runtimes.hybrid import RENEW_AFTER, Breaker
from jepa_edge.runtimes.pilot import Pilot
from jepa_edge.runtimes.planner import Plan
from jepa_edge.runtimes.remote.link import Call, Link, checked
from jepa_edge.runtimes.remote.stream import RemoteConfig, plan_from
from jepa_edge.runtimes.remote.wire import PLANNER, LateError, LinkError, int8_from_latents
from jepa_edge.runtimes.sources import StepData
from jepa_edge.runtimes.stream import Stream

WANTED = ("actions", "energy", "compute_ms")


class SplitMind:
    """A stream on board whose plans a server makes, from the last few latents of each step.

    A few hundred bytes go up in place of a picture: `RemoteConfig.uplink` ``pooled`` sends them in
    fp32, ``int8`` in a quarter of that with a scale each. The planner keeps no session, so any
    server of the same bundle may answer. With a `breaker` and a pilot of its own the board plans
    whenever the server does not in time; without them such a step raises `LinkError`.
    """

    def __init__(
        self,
        edge: Stream,
        link: Link,
        config: RemoteConfig,
        goal: FloatArray,
        *,
        breaker: Breaker | None = None,
        own: Pilot | None = None,
    ) -> None:
        """`goal [P]` is in the latents of `edge`, which are those of the server's model."""
        self.edge, self.link, self.config, self.goal = edge, link, config, goal
        self.facts = edge.facts
        self.breaker, self.own = breaker, own
        self.path: Literal["edge", "cloud"] = "edge"
        self.fallbacks = self.bytes_sent = self.bytes_received = 0
        self._id, self._numbers = uuid.uuid4().hex, itertools.count()
        self._history: deque[FloatArray] = deque(maxlen=self.facts.history)
        self._probe: Call | None = None
        self._misses = 0

    def connect(self) -> None:
        """Asks whether the server plans from such latents.

        Raises `LinkError` without a server, `RefusedError` or `InputError` when it does not.
        """
        found = {port.name: port for port in self.link.metadata_of(PLANNER).inputs}
        latents = np.zeros(tuple(found["history"].shape), np.float32)
        checked(latents, (self.facts.history, self.facts.pooled_dim), "planner's history")

    @property
    def is_warm(self) -> bool:
        """See `Stream.is_warm`."""
        return self.edge.is_warm

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """See `Stream.encode`; on board, always."""
        self.path = "edge"
        return self.edge.encode(step)

    def predict(self) -> FloatArray | None:
        """See `Stream.predict`; on board, always."""
        return self.edge.predict()

    def reset(self) -> None:
        """See `Stream.reset`."""
        self.edge.reset()

    def forget(self) -> None:
        """See `Pilot.forget`."""
        self._history.clear()
        if self.own is not None:
            self.own.forget()

    def act(self, pooled: FloatArray, *, ready: bool) -> Plan | None:
        """See `Pilot.act`. Raises `LinkError` when nobody plans in time."""
        self._history.append(pooled)
        if self.own is not None:
            self.own.remember(pooled)
        if not ready or len(self._history) < self.facts.history:
            return None
        if self.breaker is None or self.own is None:
            return self._planned(self._ask())
        self._look_at_probe()
        call = self._ask()
        if self.breaker.path == "edge":
            self._probe = call
            return self.own.plan(ready=ready)
        try:
            return self._planned(call)
        except LinkError:
            self.fallbacks += 1
            return self.own.plan(ready=ready)

    def _ask(self) -> Call:
        history = np.stack(list(self._history))
        tensors: Tensors = {"goal": self.goal}
        if self.config.uplink == "int8":
            tensors["history_int8"], tensors["scale"] = int8_from_latents(history)
        else:
            tensors["history"] = history
        call = self.link.call(
            PLANNER,
            tensors,
            outputs=WANTED,
            name=f"{self._id}:{next(self._numbers)}",
            deadline_s=self.config.deadline_s,
        )
        self.bytes_sent += call.request_bytes
        return call

    def _look_at_probe(self) -> None:
        """While the board plans: what became of the question of the step before."""
        call, self._probe = self._probe, None
        if call is None:
            return
        try:
            if not call.done:
                raise LateError("still on its way when the next step is here")
            self._planned(call)
        except LinkError:
            pass  # counted; nobody waits for it
        self.path = "edge"

    def _planned(self, call: Call) -> Plan:
        """The server's plan; whether it came in time is noted."""
        try:
            answer = call.result()
            facts = self.facts
            shape = (facts.rollout_horizon, facts.action_dim)
            checked(answer.outputs.get("actions"), shape, "actions")
            plan = plan_from(answer.outputs, answer.took_ms)
        except LinkError:
            self._note(in_time=False)
            raise
        self._note(in_time=True)
        self.path = "cloud"
        self.bytes_received += answer.received_bytes
        assert plan is not None, "the actions were checked"
        return plan

    def _note(self, *, in_time: bool) -> None:
        """After a few misses in a row the connections are made anew."""
        if self.breaker is not None:
            self.breaker.record(in_time=in_time)
        self._misses = 0 if in_time else self._misses + 1
        if self._misses and self._misses % RENEW_AFTER == 0:
            self.link.renew()
