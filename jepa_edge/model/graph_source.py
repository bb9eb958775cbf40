"""A module that becomes a graph, with the names and shapes of what goes in and comes out."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor, nn

from jepa_edge.contract import Tensors, TensorSpec

EXAMPLE_COUNT = 6
"""Size that a dynamic axis is traced with: like no other size, so nothing is taken for fixed."""


class GraphSource(msgspec.Struct, frozen=True, kw_only=True):
    """A module, and the names and shapes of what goes in and comes out (batch 1).

    A size of -1 in a shape is dynamic; `dynamic` names those axes, by input and axis. With
    `float_norms`, halving keeps norms (and with them the residual stream) in fp32.
    """

    name: str
    module: nn.Module
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    dynamic: dict[str, dict[int, str]] = {}
    float_norms: bool = False


@torch.no_grad()
def run_source(source: GraphSource, inputs: Tensors) -> Tensors:
    """The outputs of `source` by name, in eager PyTorch: what every exported graph must give."""
    out = source.module(*(torch.from_numpy(inputs[spec.name]) for spec in source.inputs))
    outputs = out if isinstance(out, tuple) else (out,)
    return {s.name: t.numpy() for s, t in zip(source.outputs, outputs, strict=True)}


def example_inputs(source: GraphSource, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Zeros of the right shapes, to trace with; never to judge accuracy by."""
    named = list(dict.fromkeys(name for axes in source.dynamic.values() for name in axes.values()))
    sizes = {name: EXAMPLE_COUNT + 2 * number for number, name in enumerate(named)}
    made = []
    for spec in source.inputs:
        axes = source.dynamic.get(spec.name, {})
        shape = [sizes[axes[i]] if i in axes else size for i, size in enumerate(spec.shape)]
        kind = dtype if spec.dtype == "float32" else getattr(torch, spec.dtype)
        made.append(torch.zeros(shape, dtype=kind))
    return tuple(made)
