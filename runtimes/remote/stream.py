"""A stream that runs on a server: the steps go up, latents, predictions and plans come back."""

from __future__ import annotations

import itertools
import uuid
from collections import deque

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import FloatArray, Tensors
from jepa_edge.runtimes.planner import Plan
from jepa_edge.runtimes.remote.link import Call, Link, checked
from jepa_edge.runtimes.remote.wire import (
    FIRST_STEP,
    PILOT,
    SEQUENCE_ID,
    SEQUENCE_START,
    STREAM,
    Answer,
    LateError,
    LinkError,
    RefusedError,
    Uplink,
    tensors_from_steps,
)
from jepa_edge.runtimes.sources import StepData

WANTED = ("pooled", "future_pooled", "step", "seen", "compute_ms")
PLANNED = ("pooled", "actions", "energy", "step", "seen", "compute_ms")


class RemoteConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream uses its link.

    Attributes:
        deadline_s: how long an answer may take; later it is thrown away.
        uplink: ``jpeg`` or ``raw`` frames; for a `SplitMind`, ``pooled`` or ``int8`` latents.
    """

    deadline_s: float = 0.15
    uplink: Uplink = "jpeg"


class RemoteStream:
    """What `Stream` is on board, on a server; one request for each step.

    Every step that the server has not confirmed is sent with the next one, up to a whole window:
    an answer that was lost leaves no hole, and a server that was restarted has the window at once.
    An answer is taken only for the step that it was asked for.
    """

    path = "cloud"
    _starts: bool
    _future: FloatArray | None
    _plan: Plan | None

    def __init__(
        self, bundle: Bundle, link: Link, config: RemoteConfig, *, goal: FloatArray | None = None
    ) -> None:
        """`goal [P]`: plans towards it are asked for, in latents of the server's model."""
        self.facts, self.senses = bundle.manifest.model, bundle.manifest.senses
        self.link, self.config, self.goal = link, config, goal
        self.last: Answer | None = None
        self.bytes_sent = self.bytes_received = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._id = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._begin()

    def connect(self) -> None:
        """Asks the server what it serves; its model may be a larger one than that on board.

        Raises `LinkError` without a server, `RefusedError` when it cannot do what is asked.
        """
        found = self.link.metadata_of(STREAM if self.goal is None else PILOT)
        self._shapes = {port.name: tuple(port.shape) for port in found.outputs}

    def reset(self) -> None:
        """The next step is the first of a new session."""
        self._begin()

    def aim(self, goal: FloatArray | None) -> None:
        """From now on plans lead to `goal [P]`; None: no plans are asked for."""
        self.goal = goal

    @property
    def is_warm(self) -> bool:
        """Whether the server has seen a whole window when it answered last."""
        return self._seen >= self.facts.window

    @property
    def seen(self) -> int:
        """Steps without a hole that the server has seen, by its last answer."""
        return self._seen

    @property
    def plan(self) -> Plan | None:
        """The plan that came with the last answer."""
        return self._plan

    def encode(self, step: StepData) -> tuple[FloatArray, FloatArray] | None:
        """See `Stream.encode`; of the dense latents none are sent.

        Raises `LinkError`; the stream is then as it was, and the next step may be encoded.
        """
        return self.take(self.begin(step))

    def predict(self) -> FloatArray | None:
        """See `Stream.predict`; it came with the same answer."""
        return self._future if self.is_warm else None

    def begin(self, step: StepData) -> Call:
        """Sends `step` and what the server has not confirmed; returns at once."""
        self._count += 1
        self._future = self._plan = None
        self._pending.append(msgspec.structs.replace(step, index=self._count))
        return self._send()

    def take(self, call: Call, *, again: bool = True) -> tuple[FloatArray, FloatArray] | None:
        """What `call` brings, which `begin` gave for the newest step.

        A server that does not know us (it is new, or forgot) gets the whole window: at once if
        `again`, and with the next step in any case. Raises `LinkError`.
        """
        try:
            answer = call.result()
        except RefusedError as error:
            if not error.forgot or self._starts:
                raise
            self._starts = True
            if not again:
                raise
            answer = self._send().result()
        return self._read(answer)

    def _begin(self) -> None:
        self._pending: deque[StepData] = deque(maxlen=self.facts.window)
        self._count = -1
        self._confirmed = -1
        self._starts = True
        self._seen = 0
        self._future = self._plan = None

    def _send(self) -> Call:
        steps = [s for s in self._pending if self._starts or s.index > self._confirmed]
        tensors = tensors_from_steps(steps, self.senses, self.config.uplink)
        model: str = STREAM
        outputs: tuple[str, ...] = WANTED
        if self.goal is not None:
            model, outputs, tensors["goal"] = PILOT, PLANNED, self.goal
        call = self.link.call(
            model,
            tensors,
            outputs=outputs,
            parameters={
                SEQUENCE_ID: self._id,
                SEQUENCE_START: self._starts,
                FIRST_STEP: steps[0].index,
            },
            name=f"{self._id}:{self._count}:{next(self._numbers)}",
            deadline_s=self.config.deadline_s,
        )
        self.bytes_sent += call.request_bytes
        return call

    def _read(self, answer: Answer) -> tuple[FloatArray, FloatArray] | None:
        outputs = answer.outputs
        step = int(checked(outputs.get("step"), (1,), "step")[0])
        if step != self._count:
            raise LateError(f"the answer is to step {step}, now is step {self._count}")
        self.last, self._confirmed, self._starts = answer, step, False
        self.bytes_received += answer.received_bytes
        self._seen = int(checked(outputs.get("seen"), (1,), "seen")[0])
        if "pooled" not in outputs:
            return None  # a bidirectional model, whose window is not full yet
        for name, shape in self._shapes.items():
            if name in outputs:
                checked(outputs[name], shape, name)
        pooled: FloatArray = outputs["pooled"]
        self._future = outputs.get("future_pooled")
        self._plan = plan_from(outputs, answer.took_ms)
        return np.zeros((0, self.facts.latent_dim), np.float32), pooled


class RemotePilot:
    """What `Pilot` is on board: the plan comes with the latents of the same step."""

    def __init__(self, stream: RemoteStream) -> None:
        self.stream = stream

    def act(self, pooled: FloatArray, *, ready: bool) -> Plan | None:
        """See `Pilot.act`."""
        del pooled
        return self.stream.plan if ready else None

    def forget(self) -> None:
        """Nothing is kept here."""


def plan_from(outputs: Tensors, took_ms: float) -> Plan | None:
    """The plan among the outputs of a server; None if there is none.

    Raises `LinkError` for actions that are none.
    """
    if "actions" not in outputs:
        return None
    actions: FloatArray = outputs["actions"]
    if not np.isfinite(actions).all() or np.abs(actions).max() > 1.0:
        raise LinkError("the server's actions are not in [-1, 1]")
    return Plan(
        actions=actions,
        energy=float(outputs["energy"][0]),
        iterations=0,
        complete=True,
        took_ms=took_ms,
    )
