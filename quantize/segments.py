"""A large OpenVINO graph, quantized a segment at a time: only one is in memory in fp32 twice.

NNCF keeps a copy of a graph's weights for SmoothQuant, compiles it twice and holds what comes out
of every node it measures. A transformer is a chain of blocks joined by one tensor, the residual
stream. Cut there, every block is a graph of its own; what a block is calibrated on is what the
fp32 blocks before it give, as it would be in the whole graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jepa_edge.contract import Tensors
from jepa_edge.runtimes.memory import let_go

LARGE_BYTES = 1 << 28
"""Graphs with fewer bytes of weights are quantized whole."""

SEGMENT_BYTES = 1 << 25
"""Of weights, at least, in a segment: one block of a large model, several of a small one."""


def weight_bytes(graph: Any) -> int:  # noqa: ANN401
    """Of an OpenVINO graph's constants."""
    return sum(map(_bytes, graph.get_ops()))


def quantized_in_segments(
    graph: Any,  # noqa: ANN401
    samples: Sequence[Tensors],
    quantize: Callable[[Any, Sequence[Tensors], bool], Any],
) -> Any:  # noqa: ANN401
    """`graph`, each segment of which `quantize` took with its inputs, and whether it is the first.

    Args:
        graph: an OpenVINO model in fp32; it is left as it is.
        samples: inputs of real calls.
        quantize: takes (model, inputs of its calls, is first).
    """
    import openvino as ov

    given = list(samples)
    done: Any = None
    borders = [None, *cuts(graph), None]
    for start, end in itertools.pairwise(borders):
        part = _between(graph, start, end)
        made = quantize(part, given, start is None)
        if end is not None:
            given = _outputs(part, given, end)
        done = made if done is None else _joined(done, made)
        del part, made
        let_go()
    return ov.Model(done.get_results(), done.get_parameters(), graph.get_friendly_name())


def cuts(graph: Any) -> list[str]:  # noqa: ANN401
    """Names of nodes whose output is all that later nodes read of what came before.

    At least `SEGMENT_BYTES` of weights lie before each, and after the last.
    """
    order = [node for node in graph.get_ordered_ops() if node.get_type_name() != "Constant"]
    last: dict[str, int] = {}
    for index, node in enumerate(order):
        read = [value.get_node().get_friendly_name() for value in node.input_values()]
        computed = [name for name in read if name in last]
        if computed or node.get_type_name() == "Parameter":
            last[node.get_friendly_name()] = index
        until = len(order) if node.get_type_name() == "Result" else index
        last |= {name: max(last[name], until) for name in computed}
    weights = np.cumsum([sum(_bytes(v.get_node()) for v in node.input_values()) for node in order])
    found, cut, alive = [], 0, set[str]()
    for index, node in enumerate(order):
        name = node.get_friendly_name()
        alive = {before for before in {*alive, name} if last.get(before, -1) > index}
        before, after = weights[index] - cut, weights[-1] - weights[index]
        if alive == {name} and node.get_output_size() == 1 and min(before, after) >= SEGMENT_BYTES:
            found.append(name)
            cut = weights[index]
    return found


def _bytes(node: Any) -> int:  # noqa: ANN401
    """Of a constant; 0 of anything else."""
    return int(node.get_byte_size()) if node.get_type_name() == "Constant" else 0


def _between(graph: Any, start: str | None, end: str | None) -> Any:  # noqa: ANN401
    """What lies after the output of node `start` up to that of `end`; None: as `graph` does."""
    import openvino as ov
    from openvino import opset13 as opset

    part = graph.clone()
    named = {node.get_friendly_name(): node for node in part.get_ops()}
    parameters, results = part.get_parameters(), part.get_results()
    if start is not None:
        before = named[start].output(0)
        entry = opset.parameter(before.get_partial_shape(), before.get_element_type())
        entry.output(0).set_names({start})
        for port in before.get_target_inputs():
            port.replace_source_output(entry.output(0))
        parameters = [entry]
    if end is not None:
        results = [opset.result(named[end].output(0))]
    return ov.Model(results, parameters)


def _outputs(part: Any, given: Sequence[Tensors], name: str) -> list[Tensors]:  # noqa: ANN401
    """The one output of `part` of each call, as the inputs of what follows."""
    import openvino as ov

    compiled = ov.Core().compile_model(part, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [{name: np.array(compiled(inputs)[0])} for inputs in given]


def _joined(first: Any, second: Any) -> Any:  # noqa: ANN401
    """`second` after `first`."""
    import openvino as ov

    (entry,), (exit_,) = second.get_parameters(), first.get_results()
    for port in entry.output(0).get_target_inputs():
        port.replace_source_output(exit_.input_value(0))
    return ov.Model(second.get_results(), first.get_parameters())
