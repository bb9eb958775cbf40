"""A module → ONNX with fixed shapes, loaded back before anyone trusts it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from typing import Any

import onnx
import torch
from torch import nn

from jepa_edge.model.graph_source import GraphSource, example_inputs

OPSET = 20
"""LayerNormalization and Gelu as one node each; the newest TensorRT 10.3 parses."""


def onnx_from(source: GraphSource, *, half: bool) -> onnx.ModelProto:
    """The ONNX graph of `source`; with `half`, strongly typed fp16 throughout.

    The exporter can write invalid graphs without a word, so the result is checked here and run in
    the real engine afterwards (see `parity`).
    """
    dtype = torch.float16 if half else torch.float32
    module = copy.deepcopy(source.module).to(dtype).eval()  # in place it would round the source
    if source.float_norms:
        for part in module.modules():
            if isinstance(part, nn.LayerNorm):
                part.float()
    with _quiet():
        program = torch.onnx.export(
            module,
            example_inputs(source, dtype),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in source.inputs],
            output_names=[spec.name for spec in source.outputs],
            dynamic_shapes=_dynamic(source),
            verbose=False,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(graph, full_check=True)
    domains = {entry.domain for entry in graph.opset_import} - {"", "ai.onnx"}
    used = {node.domain for node in graph.graph.node} & domains
    if used:
        raise RuntimeError(f"{source.name}: operators outside of ONNX: {sorted(used)}")
    return graph


def _dynamic(source: GraphSource) -> tuple[dict[int, Any], ...] | None:
    """The exporter's names for the axes that may have any size; None when all are fixed."""
    if not source.dynamic:
        return None
    return tuple(
        {axis: torch.export.Dim(name) for axis, name in source.dynamic.get(spec.name, {}).items()}
        for spec in source.inputs
    )


@contextlib.contextmanager
def _quiet() -> Any:  # noqa: ANN401
    """The exporter's chatter kept off the person's screen; errors still raise."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
