"""Weights of 8 and 4 bits give nearly what the float ones do, in the engine that reads them."""

import msgspec
import numpy as np
import pytest
import torch

from jepa_edge.bundle import Graph
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import clips_from
from jepa_edge.model.config import EncoderConfig, ModelConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized, read_graph, save_graph
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.runtimes.engine import host_engine

pytestmark = pytest.mark.filterwarnings("ignore")
MODEL = ModelConfig(
    name="wide",
    encoder=EncoderConfig(dim=128, depth=2, heads=2),  # a matrix has several groups of rows
    predictor=None,
    window=4,
    pooled_dim=16,
)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(("precision", "most"), [("int8w", 0.02), ("int4w", 0.2)])
def test_small_weights_are_near(engine, precision, most, tmp_path):
    torch.manual_seed(0)
    source = graphs_of(JEPA(MODEL).eval())[0]
    graph, recipe = read_graph(engine, onnx_from(source)), recipe_for(precision, engine)
    feeds = [
        {"video": clip.video[None], "audio": clip.audio[None]}
        for clip in clips_from("builtin:heldout", MODEL.senses, steps=MODEL.window, limit=3)
    ]
    facts = Graph(path="", inputs=source.inputs, outputs=source.outputs)
    exact = msgspec.structs.replace(recipe, weights="float")
    outputs = []
    for name, how in (("exact", exact), ("small", recipe)):
        file = save_graph(engine, quantized(engine, graph, how, feeds), how, tmp_path / name)
        run = host_engine(engine, file, facts, "f32").run
        outputs.append(np.concatenate([run(feed)["latents"] for feed in feeds]))
    error = np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0])
    assert 1e-6 < error < most
