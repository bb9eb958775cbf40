"""What several rooms' tests share: a bundle small enough to build in milliseconds, and a clip."""

import os
import tempfile
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: more threads only wait for each other

os.environ.setdefault("JEPA_EDGE_CACHE", tempfile.mkdtemp(prefix="jepa-edge-tests-"))

import numpy as np
import pytest

from jepa_edge.bundle import (
    Graph,
    Manifest,
    ModelFacts,
    Precision,
    Provenance,
    new_bundle,
    write_manifest,
)
from jepa_edge.contract import AudioSpec, Senses, TensorSpec, VideoSpec

WINDOW, TOKENS, WIDTH, HORIZON = 4, 2, 8, 2
HISTORY, CANDIDATES, ACTIONS = 2, 6, 3
SENSES = Senses(video=VideoSpec(height=16, width=16), audio=AudioSpec(mel_bins=8))
SPECS = {
    "video": TensorSpec(name="video", shape=(1, 3, 2 * WINDOW, 16, 16)),
    "audio": TensorSpec(name="audio", shape=(1, 1, 8, 20 * WINDOW)),
    "latents": TensorSpec(name="latents", shape=(1, WINDOW * TOKENS, WIDTH)),
    "pooled": TensorSpec(name="pooled", shape=(1, WINDOW, WIDTH)),
    "future": TensorSpec(name="future", shape=(1, HORIZON * TOKENS, WIDTH)),
    "future_pooled": TensorSpec(name="future_pooled", shape=(1, HORIZON, WIDTH)),
    "history": TensorSpec(name="history", shape=(1, HISTORY, WIDTH)),
    "actions": TensorSpec(name="actions", shape=(CANDIDATES, HORIZON, ACTIONS)),
    "rollout": TensorSpec(name="rollout", shape=(CANDIDATES, HORIZON, WIDTH)),
}
BORDERS = {
    "encoder": (["video", "audio"], ["latents", "pooled"]),
    "predictor": (["latents"], ["future", "future_pooled"]),
    "rollout": (["history", "actions"], ["rollout"]),
}


def write_graph(path: Path, nodes, consts, inputs, outputs):
    """Writes an ONNX graph of `nodes`; `consts` are its arrays by name."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    def infos(names):
        kind = TensorProto.FLOAT
        return [helper.make_tensor_value_info(n, kind, SPECS[n].shape) for n in names]

    arrays = [numpy_helper.from_array(array, name) for name, array in consts.items()]
    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), arrays)
    opsets = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    checker.check_model(model, full_check=True)
    save(model, str(path))


def encoder_graph(path: Path, weights):
    """One token of what a step shows, one of what it sounds like; pooled is their mean."""
    from onnx.helper import make_node as node

    shapes = {
        "s_split": [3, WINDOW, 2, 256],
        "s_seen": [1, WINDOW, 1, 1536],
        "s_bins": [8, WINDOW, 20],
        "s_heard": [1, WINDOW, 1, 160],
        "s_out": [1, WINDOW * TOKENS, WIDTH],
        "two": [2],
    }
    consts = {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    nodes = [
        node("Reshape", ["video", "s_split"], ["v0"]),
        node("Transpose", ["v0"], ["v1"], perm=[1, 0, 2, 3]),
        node("Reshape", ["v1", "s_seen"], ["v2"]),
        node("MatMul", ["v2", "w_seen"], ["seen"]),
        node("Reshape", ["audio", "s_bins"], ["a0"]),
        node("Transpose", ["a0"], ["a1"], perm=[1, 0, 2]),
        node("Reshape", ["a1", "s_heard"], ["a2"]),
        node("MatMul", ["a2", "w_heard"], ["heard"]),
        node("Concat", ["seen", "heard"], ["tokens"], axis=2),
        node("Reshape", ["tokens", "s_out"], ["latents"]),
        node("ReduceMean", ["tokens", "two"], ["pooled"], keepdims=0),
    ]
    write_graph(path, nodes, consts | weights, *BORDERS["encoder"])


def predictor_graph(path: Path):
    """The last step comes again, `HORIZON` times: the copy-last baseline."""
    from onnx.helper import make_node as node

    last = [(WINDOW - 1) * TOKENS + k for k in range(TOKENS)] * HORIZON
    consts = {
        "last": np.array(last, np.int64),
        "s_steps": np.array([1, HORIZON, TOKENS, WIDTH], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        node("Gather", ["latents", "last"], ["future"], axis=1),
        node("Reshape", ["future", "s_steps"], ["steps"]),
        node("ReduceMean", ["steps", "two"], ["future_pooled"], keepdims=0),
    ]
    write_graph(path, nodes, consts, *BORDERS["predictor"])


def rollout_graph(path: Path, weights):
    """The last latent, moved by each action in turn."""
    from onnx.helper import make_node as node

    consts = {"last": np.array([HISTORY - 1], np.int64), "axis": np.array(1, np.int64)}
    nodes = [
        node("Gather", ["history", "last"], ["now"], axis=1),
        node("MatMul", ["actions", "w_moved"], ["moves"]),
        node("CumSum", ["moves", "axis"], ["moved"]),
        node("Add", ["moved", "now"], ["rollout"]),
    ]
    write_graph(path, nodes, consts | weights, *BORDERS["rollout"])


@pytest.fixture
def micro_bundle(tmp_path) -> Path:
    """What `write_micro_bundle` writes."""
    return write_micro_bundle(tmp_path)


def write_micro_bundle(path: Path) -> Path:
    """A real bundle of three ONNX graphs in two precisions; int8 has 8-bit weights, kept as float.

    The weights are random and fixed; the graphs run in any ONNX engine.
    """
    rng = np.random.default_rng(0)
    weights = {
        "w_seen": rng.normal(size=(1536, WIDTH)).astype(np.float32) / 39,
        "w_heard": rng.normal(size=(160, WIDTH)).astype(np.float32) / 13,
    }
    moved = {"w_moved": rng.normal(size=(ACTIONS, WIDTH)).astype(np.float32) / 30}
    precisions = {}
    with new_bundle(path / "micro.jepa") as folder:
        for name in ("fp32", "int8"):
            (folder / name).mkdir()
            encoder_graph(folder / name / "encoder.onnx", rounded(weights, name))
            predictor_graph(folder / name / "predictor.onnx")
            rollout_graph(folder / name / "rollout.onnx", rounded(moved, name))
            graphs = {
                graph: Graph(
                    path=f"{name}/{graph}.onnx",
                    inputs=[SPECS[n] for n in inputs],
                    outputs=[SPECS[n] for n in outputs],
                )
                for graph, (inputs, outputs) in BORDERS.items()
            }
            precisions[name] = Precision(graphs=graphs)
        facts = ModelFacts(
            name="micro",
            window=WINDOW,
            tokens_per_step=TOKENS,
            latent_dim=WIDTH,
            pooled_dim=WIDTH,
            horizon=HORIZON,
            attention="bidirectional",
            history=HISTORY,
            action_dim=ACTIONS,
            rollout_horizon=HORIZON,
            candidates=CANDIDATES,
            parameters=1696 * WIDTH,
        )
        manifest = Manifest(
            name="micro",
            target="generic-onnx",
            engine="onnxruntime",
            model=facts,
            senses=SENSES,
            precisions=precisions,
            default_precision="fp32",
            provenance=Provenance(source="tests", source_sha256="0" * 64),
        )
        write_manifest(folder, manifest)
    return path / "micro.jepa"


def rounded(weights, precision):
    """`weights`, on the grid of symmetric int8 when that is asked for."""
    if precision == "fp32":
        return weights
    scales = {name: np.abs(array).max() / 127 for name, array in weights.items()}
    return {name: (np.round(w / scales[name]) * scales[name]) for name, w in weights.items()}


@pytest.fixture(scope="session")
def micro_viewer(tmp_path_factory):
    """A viewer of the micro bundles' latents that nothing trained: pictures of 16x24 pixels."""
    import torch

    from jepa_edge.export.viewer import write_viewer
    from jepa_edge.runtimes.viewer import ViewerFacts
    from jepa_edge.train.viewer import Decoder, Seen, TrainedViewer

    torch.manual_seed(0)
    decoder = Decoder(WIDTH, (16, 24))
    decoder.mean += 0.5
    torch.nn.init.normal_(decoder.grow[-1].weight)
    latents = np.random.default_rng(0).normal(size=(9, WIDTH)).astype(np.float32)
    seen = Seen(latents=latents, pictures=np.zeros((9, 16, 24, 3), np.uint8))
    facts = ViewerFacts(model="micro", pooled_dim=WIDTH, checkpoint_sha256="0" * 64, error=1.0)
    path = tmp_path_factory.mktemp("viewer") / "micro-viewer.onnx"
    write_viewer(TrainedViewer(decoder=decoder.eval(), error=1.0, heldout=seen), facts, path)
    return path


@pytest.fixture
def tiny_clip(tmp_path) -> Path:
    """Four seconds of 32x32 video at 10 frames/s with a rising tone (FLAC, so exact)."""
    import av

    path = tmp_path / "tiny.mp4"
    rng = np.random.default_rng(1)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        audio = out.add_stream("flac", rate=16_000)
        audio.layout, audio.format = "mono", "s16"
        scene = rng.integers(0, 255, (32, 64, 3), np.uint8)
        for k in range(40):
            picture = np.ascontiguousarray(np.roll(scene, k, axis=1)[:, :32])
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        at_s = np.arange(64_000) / 16_000
        tone = (8_000 * np.sin(2 * np.pi * (200 + 100 * at_s) * at_s)).astype(np.int16)
        for start in range(0, len(tone), 4096):
            piece = av.AudioFrame.from_ndarray(tone[None, start : start + 4096], "s16", "mono")
            piece.sample_rate, piece.pts = 16_000, start
            piece.time_base = Fraction(1, 16_000)
            out.mux(audio.encode(piece))
        out.mux(audio.encode(None))
    return path
