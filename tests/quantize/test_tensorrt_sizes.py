"""The shipped model and a ViT-S in int8 through TensorRT's real parser and builder."""

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from jepa_edge.contract import Senses, VideoSpec
from jepa_edge.devices.targets import target
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.presets import PRESETS
from jepa_edge.quantize.compile import quantized
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check

pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def built(source, precision, tmp_path):
    graph = onnx_from(source)
    rng = np.random.default_rng(0)
    feeds = [
        {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in source.inputs}
        for _ in range(2)
    ]
    limit = target("jetson").int8_attention_tokens
    recipe = recipe_for(precision, "tensorrt")
    made = quantized("tensorrt", graph, recipe, feeds, attention_tokens=limit)
    onnx.save(made, str(tmp_path / "graph.onnx"))
    return made, tensorrt_check(tmp_path / "graph.onnx")


@pytest.mark.parametrize("name", ["encoder", "predictor", "step", "rollout"])
def test_nano_in_int8(name, tmp_path):
    source = next(s for s in graphs_of(load_checkpoint("builtin:nano").model) if s.name == name)
    made, check = built(source, "int8", tmp_path)
    assert check.status == "passed", check.detail
    assert {port.type.tensor_type.elem_type for port in made.graph.input} == {TensorProto.FLOAT16}
    assert any(init.data_type == TensorProto.INT8 for init in made.graph.initializer)


def test_vit_small_in_int8_keeps_its_long_attention_whole(tmp_path):
    """384 x 12 x 6 over 640 tokens."""
    torch.manual_seed(0)
    config = msgspec.structs.replace(
        PRESETS["small"],
        senses=Senses(video=VideoSpec(height=96, width=96)),
        window=16,
        predictor=None,
        action=None,
    )
    made, check = built(graphs_of(JEPA(config).eval())[0], "int8", tmp_path)
    assert check.status == "passed", check.detail
    makers = {out: node for node in made.graph.node for out in node.output}
    constant = {init.name for init in made.graph.initializer}

    def is_product(node):
        sources = [makers.get(name) for name in node.input]
        return not any(
            name in constant
            or (maker and maker.op_type == "DequantizeLinear" and maker.input[0] in constant)
            for name, maker in zip(node.input, sources, strict=True)
        )

    products = [n for n in made.graph.node if n.op_type == "MatMul" and is_product(n)]
    assert len(products) == 24
    for node in products:
        kinds = {makers[name].op_type for name in node.input if name in makers}
        assert "DequantizeLinear" not in kinds, node.name
    small = [i for i in made.graph.initializer if i.data_type == TensorProto.INT8 and i.dims]
    assert len(small) >= 48
