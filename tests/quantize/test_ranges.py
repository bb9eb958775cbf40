"""Ranges of activations: the mean of the samples' extremes cuts off what few of them reach."""

import msgspec
import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset

from jepa_edge.quantize.int8 import int8_graph
from jepa_edge.quantize.recipe import recipe_for

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTH = 64


@pytest.fixture(scope="module")
def graph():
    rng = np.random.default_rng(0)
    given = opset.parameter([8, WIDTH], np.float32)
    given.output(0).set_names({"x"})
    tensor = given.output(0)
    for _ in range(2):
        weight = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 8
        tensor = opset.relu(opset.matmul(tensor, opset.constant(weight), False, False)).output(0)
    return ov.Model([opset.result(tensor)], [given])


def test_what_few_samples_reach_is_kept_by_the_widest_range_alone(graph):
    rng = np.random.default_rng(1)
    calls = [{"x": rng.normal(size=(8, WIDTH)).astype(np.float32)} for _ in range(16)]
    calls[3]["x"] *= 10
    loud = rng.normal(size=(8, WIDTH)).astype(np.float32) * 9

    def answer(model):
        return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(loud)[0]

    true, errors = answer(graph), {}
    for ranges in ("mean", "widest"):
        recipe = msgspec.structs.replace(recipe_for("int8", "openvino"), ranges=ranges)
        wrong = answer(int8_graph(graph, calls, recipe)) - true
        errors[ranges] = np.linalg.norm(wrong) / np.linalg.norm(true)
    assert errors["mean"] > 2 * errors["widest"]
    assert errors["widest"] < 0.15
