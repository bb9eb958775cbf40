"""A module → an ONNX file with fixed shapes, loaded back before anyone trusts it."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import io
import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from jepa_edge.model.graph_source import GraphSource, example_inputs

SCOPES = "pkg.torch.onnx.name_scopes"
OPSET = 20
"""LayerNormalization and Gelu as one node each; the newest TensorRT 10.3 parses."""

EXTERNAL_BYTES = 1 << 28
"""Weights beyond this go to a file beside the graph: one protobuf message holds at most 2 GB."""


def write_onnx(source: GraphSource, file: Path, *, half: bool) -> None:
    """Writes `source` to `file`, its weights streamed to ``<file>.data`` when they are large.

    The exporter can write invalid graphs without a word, so the result is checked here and run in
    the real engine afterwards (see `parity`).

    Args:
        source: what to trace; it is not changed.
        file: ends in ``.onnx``.
        half: strongly typed fp16 (with `GraphSource.float_norms`, in fp32 from norm to norm).
    """
    module = _halved(source) if half else source.module
    program = _program(source, module, half=half)
    _refuse_foreign(source, program)
    values = program.model.graph.initializers.values()
    size = sum(value.const_value.nbytes for value in values if value.const_value is not None)
    program.save(str(file), external_data=size > EXTERNAL_BYTES)
    if half:
        kept = {id(parameter) for parameter in source.module.parameters()}
        release(p for p in module.parameters() if id(p) not in kept)
    onnx.checker.check_model(str(file), full_check=size <= EXTERNAL_BYTES)


def release(parameters: Iterable[nn.Parameter]) -> None:
    """Empties what is not needed again: the exporter never lets go of the programs it has made."""
    for parameter in parameters:
        parameter.data = torch.empty(0, dtype=parameter.dtype)


def onnx_from(source: GraphSource, *, half: bool = False) -> onnx.ModelProto:
    """The same in memory, for graphs that are small."""
    module = _halved(source) if half else source.module
    program = _program(source, module, half=half)
    _refuse_foreign(source, program)
    graph: onnx.ModelProto = program.model_proto
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _program(source: GraphSource, module: nn.Module, *, half: bool) -> torch.onnx.ONNXProgram:
    with _quiet():
        program = torch.onnx.export(
            module,
            example_inputs(source, torch.float16 if half else torch.float32),
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in source.inputs],
            output_names=[spec.name for spec in source.outputs],
            dynamic_shapes=_dynamic(source),
            verbose=False,
        )
    assert program is not None
    _name_by_layer(program)
    return program


def _name_by_layer(program: torch.onnx.ONNXProgram) -> None:
    """Names each node after its layer and operator: ``encoder.blocks.3.attn.qkv/MatMul``.

    Recipes, reports and engines' own tools then speak of layers. The tracer keeps the module's path
    in the node's metadata; of several alike in one layer the later ones are numbered.
    """
    taken: dict[str, int] = {}
    for node in program.model.graph:
        found = node.metadata_props.get(SCOPES)
        scopes = [scope for scope in ast.literal_eval(found)[:-1] if scope] if found else []
        layer = scopes[-1].removeprefix("model.") if scopes else "graph"
        name = f"{layer}/{node.op_type}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _refuse_foreign(source: GraphSource, program: torch.onnx.ONNXProgram) -> None:
    """Raises `RuntimeError` when an operator is not ONNX's own: no other engine would know it."""
    used = {node.domain for node in program.model.graph} - {"", "ai.onnx"}
    if used:
        raise RuntimeError(f"{source.name}: operators outside of ONNX: {sorted(used)}")


def _halved(source: GraphSource) -> nn.Module:
    """A copy in fp16; the source keeps its precision, and no fp32 copy is made on the way."""
    kept: set[int] = set()
    if source.float_norms:
        norms = (part for part in source.module.modules() if isinstance(part, nn.LayerNorm))
        kept = {id(parameter) for norm in norms for parameter in norm.parameters()}
    memo: dict[int, Any] = {}
    for parameter in source.module.parameters():
        if id(parameter) not in kept and parameter.is_floating_point():
            memo[id(parameter)] = nn.Parameter(parameter.half(), requires_grad=False)
    module: nn.Module = copy.deepcopy(source.module, memo)
    for buffer in [] if source.float_norms else list(module.buffers()):
        if buffer.is_floating_point():
            buffer.data = buffer.data.half()
    return module.eval()


def _dynamic(source: GraphSource) -> tuple[Any, ...] | None:
    """The exporter's names for the axes that may have any size; None when all are fixed."""
    if not source.dynamic:
        return None
    axes = (source.dynamic.get(spec.name, {}) for spec in source.inputs)
    named = tuple({axis: torch.export.Dim(name) for axis, name in found.items()} for found in axes)
    return (named,) if _is_variadic(source.module) else named


def _is_variadic(module: nn.Module) -> bool:
    """Whether it takes its inputs as `*given`: the exporter then sees one tuple."""
    first, *_ = inspect.signature(module.forward).parameters.values()
    return first.kind is inspect.Parameter.VAR_POSITIONAL


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
