"""One graph on a server of the Open Inference Protocol: KServe, Triton, OpenVINO Model Server."""

from __future__ import annotations

import itertools

from jepa_edge.bundle import Graph
from jepa_edge.contract import CheckFailedError, Tensors
from jepa_edge.runtimes.remote.link import Link


class RemoteEngine:
    """A graph that runs elsewhere; whoever holds it must be ready for `LinkError` at each call."""

    def __init__(self, link: Link, model: str, graph: Graph, *, deadline_s: float = 1.0) -> None:
        """Checks that the server's model has the graph's ports.

        Raises `LinkError` without a server, `CheckFailedError` for a model of another shape.
        """
        self.link, self.model, self.deadline_s = link, model, deadline_s
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.precision_used = "remote"
        self._numbers = itertools.count()
        found = link.metadata_of(model)
        for kind, specs, ports in (
            ("takes", graph.inputs, found.inputs),
            ("gives", graph.outputs, found.outputs),
        ):
            there = {port.name: tuple(port.shape) for port in ports}
            wrong = [s.name for s in specs if not _fits(s.shape, there.get(s.name))]
            if wrong:
                raise CheckFailedError(
                    f"{link.config.uri}: model {model} {kind} {there}, but the bundle says "
                    f"{ {s.name: s.shape for s in specs} }; serve the same bundle"
                )

    def run(self, inputs: Tensors) -> Tensors:
        """See `Engine.run`. Raises `LinkError` too."""
        given = {spec.name: inputs[spec.name] for spec in self.inputs}
        call = self.link.call(
            self.model,
            given,
            outputs=tuple(spec.name for spec in self.outputs),
            name=f"{self.model}:{next(self._numbers)}",
            deadline_s=self.deadline_s,
        )
        return call.result().outputs


def _fits(ours: tuple[int, ...], theirs: tuple[int, ...] | None) -> bool:
    """Sizes of -1 are free."""
    return (
        theirs is not None
        and len(ours) == len(theirs)
        and all(b in (-1, a) for a, b in zip(ours, theirs, strict=True))
    )
