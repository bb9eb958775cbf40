"""A bundle small enough to build in milliseconds whose `step` graph really remembers."""

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

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

WINDOW, TOKENS, WIDTH, HORIZON, SIDE, MELS = 4, 2, 8, 2, 32, 8
HISTORY, CANDIDATES, ACTIONS, AHEAD = 2, 16, 4, 3
SENSES = Senses(video=VideoSpec(height=SIDE, width=SIDE), audio=AudioSpec(mel_bins=MELS))
HEARD = 20
SLOTS, TURN = WINDOW - 1, 4


def shapes(batch):
    cache = (batch, 1, 1, SLOTS * TOKENS, WIDTH)
    new = (batch, 1, 1, TOKENS, WIDTH)
    return {
        "video": (batch, 3, 2, SIDE, SIDE),
        "audio": (batch, 1, MELS, HEARD),
        "cache_k": cache,
        "cache_v": cache,
        "filled": (batch,),
        "turn": (batch, 2, TURN),
        "latents": (batch, TOKENS, WIDTH),
        "pooled": (batch, 1, WIDTH),
        "new_k": new,
        "new_v": new,
    }


SENSED = ["video", "audio", "cache_k", "cache_v", "filled", "turn"]
GIVEN = ["latents", "pooled", "new_k", "new_v"]


def step_graph(path, batch, weights):
    """Tokens of what is seen and heard, plus half the mean of the steps that the cache holds."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["video", "s_seen"], ["v"]),
        node("MatMul", ["v", "w_seen"], ["seen"]),
        node("Reshape", ["audio", "s_heard"], ["a"]),
        node("MatMul", ["a", "w_heard"], ["heard"]),
        node("Concat", ["seen", "heard"], ["now"], axis=1),
        node("Reshape", ["cache_k", "s_slots"], ["slots"]),
        node("ReduceMean", ["slots", "one"], ["before"], keepdims=0),
        node("Mul", ["before", "half"], ["recalled"]),
        node("Add", ["now", "recalled"], ["latents"]),
        node("ReduceMean", ["latents", "one"], ["pooled"], keepdims=1),
        node("Reshape", ["now", "s_new"], ["new_k"]),
        node("Neg", ["new_k"], ["new_v"]),
    ]
    consts = {
        "s_seen": np.array([batch, 1, 6 * SIDE * SIDE], np.int64),
        "s_heard": np.array([batch, 1, MELS * HEARD], np.int64),
        "s_slots": np.array([batch, SLOTS, TOKENS, WIDTH], np.int64),
        "s_new": np.array([batch, 1, 1, TOKENS, WIDTH], np.int64),
        "one": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
    }
    return write(path, nodes, consts | weights, SENSED, GIVEN, shapes(batch))


def predictor_graph(path):
    """Half of the last step, again and again."""
    node = helper.make_node
    last = [(WINDOW - 1) * TOKENS + k for k in range(TOKENS)] * HORIZON
    consts = {
        "last": np.array(last, np.int64),
        "half": np.array(0.5, np.float32),
        "s_steps": np.array([1, HORIZON, TOKENS, WIDTH], np.int64),
        "two": np.array([2], np.int64),
    }
    nodes = [
        node("Gather", ["latents", "last"], ["again"], axis=1),
        node("Mul", ["again", "half"], ["future"]),
        node("Reshape", ["future", "s_steps"], ["steps"]),
        node("ReduceMean", ["steps", "two"], ["future_pooled"], keepdims=0),
    ]
    known = {
        "latents": (1, WINDOW * TOKENS, WIDTH),
        "future": (1, HORIZON * TOKENS, WIDTH),
        "future_pooled": (1, HORIZON, WIDTH),
    }
    return write(path, nodes, consts, ["latents"], ["future", "future_pooled"], known)


def rollout_graph(path, weights):
    """The last latent, moved by each action in turn."""
    node = helper.make_node
    consts = {"last": np.array([HISTORY - 1], np.int64), "axis": np.array(1, np.int64)}
    nodes = [
        node("Gather", ["history", "last"], ["now"], axis=1),
        node("MatMul", ["actions", "w_moved"], ["moves"]),
        node("CumSum", ["moves", "axis"], ["moved"]),
        node("Add", ["moved", "now"], ["rollout"]),
    ]
    known = {
        "history": (1, HISTORY, WIDTH),
        "actions": (CANDIDATES, AHEAD, ACTIONS),
        "rollout": (CANDIDATES, AHEAD, WIDTH),
    }
    return write(path, nodes, consts | weights, ["history", "actions"], ["rollout"], known)


def write(path, nodes, consts, inputs, outputs, known):
    """Writes the graph, and gives its entry in the manifest."""

    def infos(names):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, known[n]) for n in names]

    arrays = [numpy_helper.from_array(array, name) for name, array in consts.items()]
    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    save(model, str(path))
    return Graph(
        path=path.name,
        inputs=[TensorSpec(name=n, shape=known[n]) for n in inputs],
        outputs=[TensorSpec(name=n, shape=known[n]) for n in outputs],
    )


def cloud_bundle_at(out, batch=4):
    """Writes the bundle at `out`: step alone and for a batch, predictor, rollout; ONNX Runtime."""
    random = np.random.default_rng(0)
    weights = {
        "w_seen": random.normal(size=(6 * SIDE * SIDE, WIDTH)).astype(np.float32) / 78,
        "w_heard": random.normal(size=(MELS * HEARD, WIDTH)).astype(np.float32) / 13,
    }
    moved = {"w_moved": random.normal(size=(ACTIONS, WIDTH)).astype(np.float32)}
    with new_bundle(out) as folder:
        graphs = {
            "step": step_graph(folder / "step.onnx", 1, weights),
            "predictor": predictor_graph(folder / "predictor.onnx"),
            "rollout": rollout_graph(folder / "rollout.onnx", moved),
        }
        batched = {f"step@{batch}": step_graph(folder / f"step@{batch}.onnx", batch, weights)}
        facts = ModelFacts(
            name="micro",
            window=WINDOW,
            tokens_per_step=TOKENS,
            latent_dim=WIDTH,
            pooled_dim=WIDTH,
            horizon=HORIZON,
            attention="causal",
            history=HISTORY,
            action_dim=ACTIONS,
            rollout_horizon=AHEAD,
            candidates=CANDIDATES,
            parameters=1,
        )
        manifest = Manifest(
            name="micro",
            target="generic-onnx",
            engine="onnxruntime",
            model=facts,
            senses=SENSES,
            precisions={"fp32": Precision(graphs=graphs, batched=batched)},
            default_precision="fp32",
            provenance=Provenance(source="tests", source_sha256="0" * 64),
        )
        write_manifest(folder, manifest)
    return out
