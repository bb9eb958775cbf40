"""int8 weights for CPUs stay within 7 bits: without VNNI, sums of full ones overflow silently."""

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

from jepa_edge.export.trace import onnx_from
from jepa_edge.model.config import EncoderConfig, ModelConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized, read_graph
from jepa_edge.quantize.recipe import recipe_for

pytestmark = pytest.mark.filterwarnings("ignore")
MICRO = ModelConfig(
    name="micro", encoder=EncoderConfig(dim=32, depth=1, heads=2), predictor=None, window=2
)


@pytest.fixture(scope="module")
def encoder():
    return onnx_from(graphs_of(JEPA(MICRO).eval())[0])


def largest(engine, precision, encoder):
    rng = np.random.default_rng(0)
    samples = [
        {
            port.name: rng.normal(
                size=[dim.dim_value for dim in port.type.tensor_type.shape.dim]
            ).astype(np.float32)
            for port in encoder.graph.input
        }
        for _ in range(2)
    ]
    graph = quantized(engine, read_graph(engine, encoder), recipe_for(precision, engine), samples)
    if engine == "openvino":
        nodes = graph.get_ordered_ops()
        small = [
            np.array(node.data)
            for node in nodes
            if node.get_type_name() == "Constant"
            and node.get_element_type().get_type_name() == "i8"
        ]
    else:
        inits = graph.graph.initializer
        small = [numpy_helper.to_array(i) for i in inits if i.data_type == TensorProto.INT8]
    matrices = [array for array in small if array.ndim == 2 and array.size > 64]
    assert len(matrices) >= 4
    return max(int(np.abs(array.astype(int)).max()) for array in matrices)


@pytest.mark.parametrize("precision", ["int8", "mixed"])
def test_of_seven_bits_for_cpus_and_of_eight_for_tensorrt(precision, encoder):
    assert largest("openvino", precision, encoder) <= 64
    assert largest("onnxruntime", precision, encoder) <= 64
    assert largest("tensorrt", precision, encoder) > 100
