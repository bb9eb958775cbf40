"""ONNX for ONNX Runtime and for TensorRT: floats strongly typed, int8 as explicit Q/DQ."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import onnx

from jepa_edge.bundle import Check
from jepa_edge.export.trace import embedding_patterns
from jepa_edge.model.feeds import Tensors
from jepa_edge.quantize.int8 import EXPLICIT_QDQ, int8_graph

CHECKED_FOR = "SM86"


def write_onnx(graph: onnx.ModelProto, precision: str, feeds: list[Tensors], path: Path) -> Path:
    """Writes `path` with suffix ``.onnx`` in `precision` (fp16 graphs come traced as such)."""
    if precision == "int8":
        graph = int8_graph(
            graph,
            feeds,
            msgspec.structs.replace(EXPLICIT_QDQ, float_patterns=embedding_patterns(graph)),
        )
    file = path.with_suffix(".onnx")
    onnx.save_model(graph, str(file))
    return file


def tensorrt_check(path: Path) -> Check:
    """Parses and builds the graph ahead of time with the real TensorRT-RTX compiler; needs no GPU.

    It targets desktop Ampere (SM86), not Orin (SM87), so it proves that TensorRT's parser and a
    strongly typed build take the graph, not what the board's plan computes.
    """
    name = f"TensorRT-RTX build, {CHECKED_FOR}"
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
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    began = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return Check(name=name, status="failed", detail="the build gave no plan")
    size = f"{plan.nbytes / 1e6:.1f} MB in {time.monotonic() - began:.1f} s"
    return Check(name=name, status="passed", detail=f"plan of {size}")
