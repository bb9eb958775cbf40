"""What stays in float: the whole embedding of a sense, be it one convolution or several."""

import numpy as np
import onnx
from onnx import TensorProto, helper

from jepa_edge.quantize.int8 import embedding_patterns


def graph_of(*kinds):
    """`video` through nodes of these kinds, each named after its kind and place."""
    nodes, tensor, weights = [], "video", []
    for index, kind in enumerate(kinds):
        inputs = [tensor]
        if kind in ("Conv", "MatMul"):
            weights.append(onnx.numpy_helper.from_array(np.ones((4, 4), np.float32), f"w{index}"))
            inputs.append(f"w{index}")
        tensor = f"t{index}"
        nodes.append(helper.make_node(kind, inputs, [tensor], name=f"{kind}_{index}"))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("video", tensor)]
    return helper.make_model(helper.make_graph(nodes, "stem", ends[:1], ends[1:], weights))


def test_a_stack_of_convolutions_is_one_embedding():
    found = embedding_patterns(
        graph_of("Conv", "Relu", "Conv", "Reshape", "MatMul", "Relu", "MatMul")
    )
    assert found == ("^Conv_0(/.*)?$", "^Conv_2(/.*)?$")


def test_a_dense_embedding_ends_at_its_first_product():
    assert embedding_patterns(graph_of("Reshape", "MatMul", "Relu", "MatMul")) == (
        "^MatMul_1(/.*)?$",
    )
