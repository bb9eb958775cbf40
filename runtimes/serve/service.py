"""What is served, without any protocol: names, tensors in, tensors out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from jepa_edge.bundle import Bundle
from jepa_edge.contract import (
    FRAMES_PER_STEP,
    GRAPHS,
    FloatArray,
    InputError,
    Tensors,
    TensorSpec,
)
from jepa_edge.runtimes.planner import Planner, PlannerConfig
from jepa_edge.runtimes.remote.wire import (
    PILOT,
    PLANNER,
    STREAM,
    latents_from_int8,
    steps_from_tensors,
)
from jepa_edge.runtimes.serve.batching import BatchConfig, BatchingEngine
from jepa_edge.runtimes.serve.sessions import Session, SessionConfig, Sessions
from jepa_edge.runtimes.stream import Stream

DATATYPES = {"float32": "FP32", "float16": "FP16", "int8": "INT8", "uint8": "UINT8"}
"""The protocol's names of the types that graphs take and give."""

FREE = -1
"""A size that the request chooses."""


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the server. Types are those of the protocol (UINT8, FP32, BYTES, …)."""

    name: str
    inputs: list[Port]
    outputs: list[Port]


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of a model; a size of -1 is free. One that is `optional` has an alternative."""

    name: str
    datatype: str
    shape: list[int]
    optional: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call: `tensors` by input name, and the fields of the sequence extension."""

    model: str
    tensors: dict[str, Any]
    session: str = ""
    start: bool = False
    end: bool = False
    first_step: int = 0


class ServiceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How it is served: what `graphs` of the bundle allow."""

    batch: BatchConfig = BatchConfig()
    sessions: SessionConfig = SessionConfig()
    planner: PlannerConfig = PlannerConfig()
    graphs: tuple[str, ...] = GRAPHS


class Service:
    """A bundle's graphs, and the sessions of the robots that stream to them.

    Raises what `Stream` and `Planner` raise for a bundle that they cannot take.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str | None,
        config: ServiceConfig | None = None,
        observe: Callable[[str, int, float], None] = lambda *_: None,
    ) -> None:
        """`observe` gets (graph, calls, seconds) of each computation."""
        config = config or ServiceConfig()
        self.manifest, self.senses = bundle.manifest, bundle.manifest.senses
        self.facts = bundle.manifest.model
        self.engines = {
            name: BatchingEngine(bundle, name, precision, config.batch, observe)
            for name in bundle.manifest.precision(precision).graphs
            if name in config.graphs
        }
        self.stream = None
        if {"step", "encoder"} & set(self.engines):
            self.stream = Stream(bundle, precision, engines=self.engines)
        self.planner = None
        if "rollout" in self.engines:
            rollout = self.engines["rollout"]
            self.planner = Planner(rollout, config.planner, self.facts)
        self.sessions = Sessions(self._session, config.sessions)
        self.models = {model.name: model for model in self._models()}

    def infer(self, request: Request) -> Tensors:
        """The outputs of `request`; blocks while it is computed.

        Raises:
            InputError: tensors that are missing, or not what the model takes.
            SessionError: a session that is not known here, or steps it has seen.
            ExpiredError, OverloadedError: see `BatchingEngine.run`.
        """
        began = time.perf_counter()
        match request.model:
            case "stream" | "pilot":
                outputs = self._in_session(request)
            case "planner":
                outputs = self._plan(request.tensors)
            case name:
                outputs = self._graph(name, request.tensors)
        took_ms = (time.perf_counter() - began) * 1e3
        if request.model in (STREAM, PILOT, PLANNER):
            return outputs | {"compute_ms": np.array([took_ms], np.float32)}
        return outputs

    def close(self) -> None:
        """Ends the workers."""
        for engine in self.engines.values():
            engine.close()

    def _graph(self, name: str, tensors: dict[str, Any]) -> Tensors:
        engine = self.engines[name]
        for spec in engine.inputs:
            if spec.name not in tensors:
                raise InputError(f"{name}: input {spec.name} is missing")
            spec.check(tensors[spec.name], where=name)
        return engine.run(tensors)

    def _in_session(self, request: Request) -> Tensors:
        if not request.session:
            raise InputError(f"{request.model} needs the parameter sequence_id: who is asking")
        steps = steps_from_tensors(request.tensors, self.senses, request.first_step)
        if len(steps) > self.facts.window:
            raise InputError(f"{len(steps)} steps at once; the window is {self.facts.window}")
        goal = self._goal(request.tensors) if request.model == PILOT else None
        session = self.sessions.get(request.session, start=request.start)
        with session.lock:
            if request.start:
                session.restart()
            outputs = session.take(
                request.model,
                steps,
                _predicted if goal is None else lambda at, pooled: _planned(at, pooled, goal),
            )
        if request.end:
            self.sessions.end(request.session)
        return outputs

    def _session(self) -> Session:
        assert self.stream is not None, "no model with sessions is served without a stream"
        return Session(self.stream, self.planner)

    def _plan(self, tensors: dict[str, Any]) -> Tensors:
        """Stateless: every request is planned from scratch, so any server may answer it."""
        if self.planner is None:
            raise InputError("this bundle has no rollout graph to plan with")
        shape = (self.planner.history, self.facts.pooled_dim)
        if "history" in tensors:
            history = _checked(tensors["history"], "history", shape)
        else:
            values, scale = tensors.get("history_int8"), tensors.get("scale")
            if values is None or scale is None:
                raise InputError("give history (fp32), or history_int8 and scale")
            if values.dtype != np.int8 or values.shape != shape:
                raise InputError(
                    f"history_int8 is {values.dtype} {list(values.shape)}, needs int8 {list(shape)}"
                )
            history = latents_from_int8(values, _checked(scale, "scale", shape[:1]))
        planner = copy.copy(self.planner)  # the same engine, a search of its own
        planner.reset()
        return _actions(planner, history, self._goal(tensors))

    def _goal(self, tensors: dict[str, Any]) -> FloatArray:
        if self.planner is None:
            raise InputError("this bundle has no rollout graph to plan with")
        if "goal" not in tensors:
            raise InputError("goal is missing: the pooled latent that is wanted")
        return _checked(tensors["goal"], "goal", (self.facts.pooled_dim,))

    def _models(self) -> list[Served]:
        found = [
            Served(name=name, inputs=ports_of(engine.inputs), outputs=ports_of(engine.outputs))
            for name, engine in self.engines.items()
        ]
        width = self.facts.pooled_dim
        state = [
            Port(name="step", datatype="INT64", shape=[1]),
            Port(name="seen", datatype="INT64", shape=[1]),
            Port(name="compute_ms", datatype="FP32", shape=[1]),
        ]
        senses = self._sense_ports()
        latent = Port(name="pooled", datatype="FP32", shape=[width])
        future = Port(name="future_pooled", datatype="FP32", shape=[self.facts.horizon, width])
        outputs = [latent, *([future] if "predictor" in self.engines else []), *state]
        if self.stream is not None:
            found.append(Served(name=STREAM, inputs=senses, outputs=outputs))
        if self.planner is not None:
            plan = [
                Port(
                    name="actions",
                    datatype="FP32",
                    shape=[self.planner.horizon, self.planner.width],
                ),
                Port(name="energy", datatype="FP32", shape=[1]),
            ]
            goal = Port(name="goal", datatype="FP32", shape=[width])
            if self.stream is not None:
                inputs, outputs = [*senses, goal], [latent, *plan, *state]
                found.append(Served(name=PILOT, inputs=inputs, outputs=outputs))
            past = [self.planner.history, width]
            history = [
                Port(name="history", datatype="FP32", shape=past, optional=True),
                Port(name="history_int8", datatype="INT8", shape=past, optional=True),
                Port(name="scale", datatype="FP32", shape=past[:1], optional=True),
            ]
            found.append(Served(name=PLANNER, inputs=[*history, goal], outputs=[*plan, state[-1]]))
        return found

    def _sense_ports(self) -> list[Port]:
        ports = []
        if video := self.senses.video:
            shape = [FREE, FRAMES_PER_STEP, video.height, video.width, 3]
            ports = [
                Port(name="frames", datatype="UINT8", shape=shape, optional=True),
                Port(name="jpeg", datatype="BYTES", shape=shape[:2], optional=True),
            ]
        if audio := self.senses.audio:
            shape = [FREE, 1, audio.mel_bins, self.senses.mel_frames_per_step]
            ports += [
                Port(name="audio", datatype="FP32", shape=shape, optional=True),
                Port(name="audio_half", datatype="FP16", shape=shape, optional=True),
            ]
        return ports


def _predicted(session: Session, pooled: FloatArray) -> Tensors:
    found: Tensors = {"pooled": pooled}
    future = session.stream.predict()
    if future is not None:
        found["future_pooled"] = future
    return found


def _planned(session: Session, pooled: FloatArray, goal: FloatArray) -> Tensors:
    assert session.planner is not None
    return {"pooled": pooled} | _actions(session.planner, session.history, goal)


def _actions(planner: Planner, history: FloatArray, goal: FloatArray) -> Tensors:
    plan = planner.plan(history, goal)
    return {"actions": plan.actions, "energy": np.array([plan.energy], np.float32)}


def _checked(array: Any, name: str, shape: tuple[int, ...]) -> FloatArray:  # noqa: ANN401
    spec = TensorSpec(name=name, shape=shape)
    spec.check(array, where="request")
    found: FloatArray = array
    return found


def ports_of(specs: list[TensorSpec]) -> list[Port]:
    """The tensors of a graph in the protocol's words."""
    return [
        Port(name=spec.name, datatype=DATATYPES[spec.dtype], shape=list(spec.shape))
        for spec in specs
    ]
