"""A large graph quantized a segment at a time is the graph it would be as a whole."""

import re

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset

from jepa_edge.export.trace import onnx_from
from jepa_edge.model.config import EncoderConfig, ModelConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize import int8, segments
from jepa_edge.quantize.compile import read_graph
from jepa_edge.quantize.recipe import recipe_for

pytestmark = pytest.mark.filterwarnings("ignore")
MICRO = ModelConfig(
    name="micro", encoder=EncoderConfig(dim=64, depth=3, heads=2), predictor=None, window=2
)
BLOCK_BYTES = 12 * 64 * 64 * 4


@pytest.fixture(scope="module")
def encoder():
    return read_graph("openvino", onnx_from(graphs_of(JEPA(MICRO).eval())[0]))


@pytest.fixture(autouse=True)
def _a_block_is_a_segment(monkeypatch):
    monkeypatch.setattr(segments, "SEGMENT_BYTES", BLOCK_BYTES - 1)


def calls(graph, count):
    rng = np.random.default_rng(0)
    return [
        {
            port.any_name: rng.normal(size=list(port.shape)).astype(np.float32)
            for port in graph.inputs
        }
        for _ in range(count)
    ]


def outputs(graph, given):
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = [compiled(call) for call in given]
    return {
        port.any_name: np.stack([np.array(out[port.any_name]) for out in found])
        for port in graph.outputs
    }


def test_segments_are_given_what_the_graph_before_them_gives_and_join_to_it_again(encoder):
    seen = []

    def untouched(part, given, first):
        seen.append((part, given, first))
        return part

    whole = segments.quantized_in_segments(encoder, calls(encoder, 2), untouched)
    assert [first for *_, first in seen] == [True] + [False] * len(segments.cuts(encoder))
    streams = [
        re.fullmatch(r"encoder\.blocks\.\d/Add(_2)?", name) for name in segments.cuts(encoder)
    ]
    assert sum(found is not None for found in streams) >= 2
    assert [port.any_name for port in whole.inputs] == [port.any_name for port in encoder.inputs]
    now, before = (outputs(graph, calls(encoder, 3)) for graph in (whole, encoder))
    assert now.keys() == before.keys()
    assert all(np.array_equal(now[name], before[name]) for name in now)


def test_int8_in_segments_is_as_close_as_int8_of_the_whole(encoder, monkeypatch):
    recipe, heard = recipe_for("int8", "openvino"), calls(encoder, 4)
    whole = int8.int8_graph(encoder, heard, recipe)
    monkeypatch.setattr(int8, "LARGE_BYTES", 0)
    cut = int8.int8_graph(encoder, heard, recipe)
    rounded = [
        sum(node.get_type_name() == "FakeQuantize" for node in made.get_ops())
        for made in (whole, cut)
    ]
    assert rounded[0] == rounded[1] > 0
    true, *made = (outputs(graph, calls(encoder, 3)) for graph in (encoder, whole, cut))
    for name, wanted in true.items():
        errors = [np.linalg.norm(out[name] - wanted) / np.linalg.norm(wanted) for out in made]
        assert 0 < errors[1] < 1.1 * errors[0]


def test_nothing_is_cut_that_a_later_node_reads_from_beside():
    """A U: its first half is read again in its last step, so one tensor never is all there is."""
    side = 256
    weight = np.eye(side, dtype=np.float32)

    def layer(tensor):
        return opset.matmul(tensor, opset.constant(weight), transpose_a=False, transpose_b=False)

    given = opset.parameter([1, side], np.float32)
    early = layer(given)
    late = layer(layer(early))
    inside = ov.Model([opset.result(opset.add(late, early))], [given])
    chain = ov.Model([opset.result(layer(late))], [given])
    assert segments.cuts(inside) == [early.get_friendly_name()]
    assert len(segments.cuts(chain)) == 3
    two = ov.Model([opset.result(layer(late)), opset.result(early)], [given])
    assert segments.cuts(two) == [early.get_friendly_name()]
