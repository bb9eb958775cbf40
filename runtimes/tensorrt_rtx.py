"""TensorRT's parser and ahead-of-time compiler, which need no GPU."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from jepa_edge.bundle import Check

DYNAMIC_SIZES = (1, 256, 1024)
"""The least, usual and most that a dynamic axis may have in the plan of the check."""


def tensorrt_check(path: Path, capability: str = "SM86") -> Check:
    """Parses and builds an ONNX graph with the real TensorRT-RTX compiler.

    It targets desktop cards (SM86 Ampere, SM120 Blackwell), not Orin (SM87) or Thor (SM110), so it
    proves that TensorRT's parser and a strongly typed build take the graph, not what the board's
    plan computes.
    """
    name = f"TensorRT-RTX build, {capability}"
    try:
        import tensorrt_rtx_bindings as trt
    except ImportError:
        return Check(
            name=name, status="not run here", detail="pip install 'jepa-edge[tensorrt]' to run it"
        )
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
        else 0
    )
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        return Check(name=name, status="failed", detail=f"parse: {errors}"[:500])
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    _allow_dynamic_sizes(builder, network, config)
    began = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return Check(name=name, status="failed", detail="the build gave no plan")
    size = f"{plan.nbytes / 1e6:.1f} MB in {time.monotonic() - began:.1f} s"
    return Check(name=name, status="passed", detail=f"plan of {size}")


def _allow_dynamic_sizes(builder: Any, network: Any, config: Any) -> None:  # noqa: ANN401
    """A profile for inputs with dynamic axes: without one, the builder refuses them."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    if all(size >= 0 for tensor in inputs for size in tensor.shape):
        return
    profile = builder.create_optimization_profile()
    for tensor in inputs:
        shapes = ([size if size >= 0 else d for size in tensor.shape] for d in DYNAMIC_SIZES)
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
