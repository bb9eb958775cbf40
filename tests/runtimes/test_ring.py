"""The ring of keys and values: exact for ever, in every engine, and cheap in every type."""

import resource

import numpy as np
import pytest
import torch

from jepa_edge.bundle import Graph
from jepa_edge.contract import InputError, Senses, TensorSpec, VideoSpec
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.config import EncoderConfig, ModelConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import read_graph, write_graph
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.ring import KvRing, turned, turns_per_step

W = 4


def micro():
    torch.manual_seed(0)
    return JEPA(
        ModelConfig(
            name="micro",
            encoder=EncoderConfig(dim=48, depth=2, heads=2),
            predictor=None,
            senses=Senses(video=VideoSpec(height=32, width=32)),
            window=W,
            pooled_dim=16,
        )
    ).eval()


def step_engine(model, folder, engine, cache="float32"):
    (source,) = (graph for graph in graphs_of(model, cache) if graph.name == "step")
    read = read_graph(engine, onnx_from(source, half=False))
    file = write_graph(engine, read, "fp32", [], folder / f"step-{cache}")
    graph = Graph(path=file.name, inputs=source.inputs, outputs=source.outputs)
    return host_engine(engine, file, graph, "f32")


def senses_at(step):
    rng = np.random.default_rng(step)
    return {
        "video": rng.normal(size=(1, 3, 2, 32, 32)).astype(np.float32),
        "audio": rng.normal(size=(1, 1, 64, 20)).astype(np.float32),
    }


@torch.no_grad()
def whole_history(model, steps):
    """Latents `[S, N, D]` and pooled `[S, P]` of all steps in one parallel, masked pass."""
    parts = [senses_at(step) for step in range(steps)]
    video = torch.from_numpy(np.concatenate([part["video"] for part in parts], 2))
    audio = torch.from_numpy(np.concatenate([part["audio"] for part in parts], 3))
    latents, pooled = model(video, audio)
    return latents[0].numpy(), pooled[0].numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_the_ring_in_a_real_engine_equals_the_whole_history(engine, tmp_path):
    model, steps = micro(), 3 * W + 2
    latents, pooled = whole_history(model, steps)
    run = step_engine(model, tmp_path, engine)
    ring = KvRing(run.inputs, run.outputs)
    for step in range(steps):
        out = run.run(senses_at(step) | ring.feed())
        ring.take(out)
        np.testing.assert_allclose(out["latents"][0], latents[step], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(out["pooled"][0, 0], pooled[step], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cache", "close"), [("float16", 2e-3), ("int8", 3e-2)])
def test_a_smaller_memory_is_close(cache, close, tmp_path):
    model, steps = micro(), 3 * W
    latents, _ = whole_history(model, steps)
    run = step_engine(model, tmp_path, "openvino", cache)
    ring = KvRing(run.inputs, run.outputs)
    assert str(ring.feed()["cache_k"].dtype) == cache
    for step in range(steps):
        out = run.run(senses_at(step) | ring.feed())
        ring.take(out)
        error = np.linalg.norm(out["latents"][0] - latents[step]) / np.linalg.norm(latents[step])
        assert error < close


def test_positions_never_overflow():
    width = 20
    per_step = turns_per_step(width)
    far = 10**15  # two million years at 15 steps a second
    for step in (0, 1, 7, 2**32 + 5, far):
        for age in (1, 7):
            cos, sin = turned(per_step, step + age)[0].astype(np.float64)
            cos0, sin0 = turned(per_step, step)[0].astype(np.float64)
            expected_cos, expected_sin = turned(per_step, age)[0]
            np.testing.assert_allclose(cos * cos0 + sin * sin0, expected_cos, atol=3e-7)
            np.testing.assert_allclose(sin * cos0 - cos * sin0, expected_sin, atol=3e-7)


def test_a_stream_far_away_gives_what_a_new_one_gives(tmp_path):
    model = micro()
    run = step_engine(model, tmp_path, "onnxruntime")
    near, far = KvRing(run.inputs, run.outputs), KvRing(run.inputs, run.outputs)
    far.steps = 3 * 10**9 * far.slots
    far.feed = _full(far)
    for step in range(2 * W + 1):
        given = senses_at(step)
        ours, theirs = (run.run(given | ring.feed()) for ring in (near, far))
        near.take(ours)
        far.take(theirs)
    np.testing.assert_allclose(theirs["latents"], ours["latents"], rtol=1e-5, atol=1e-5)


def _full(ring):
    """A ring that began long ago, and forgot all before then."""
    feed, began = ring.feed, ring.steps

    def given():
        return feed() | {"filled": np.array([min(ring.steps - began, ring.slots)], np.float32)}

    return given


def test_an_older_step_graph_is_refused():
    specs = [TensorSpec(name="cache_k", shape=(1, 1, 1, 4, 4))]
    with pytest.raises(InputError, match="export the bundle again"):
        KvRing(specs, [TensorSpec(name="next_cache_k", shape=(1, 1, 1, 4, 4))])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_shipped_model_streams_exactly_after_1_w_and_1000_steps(tmp_path):
    """The real weights: step s of the stream against the parallel run that ends at s."""
    from jepa_edge.model.checkpoint import load_checkpoint

    model = load_checkpoint("builtin:nano").model.eval()
    window, reach = model.config.window, model.config.window * (model.config.encoder.depth + 1)
    run = step_engine(model, tmp_path, "openvino")
    ring = KvRing(run.inputs, run.outputs)
    video = np.random.default_rng(0).normal(size=(1, 3, 2 * 64, 96, 96)).astype(np.float32)
    sound = np.random.default_rng(1).normal(size=(1, 1, 64, 20 * 64)).astype(np.float32)

    def seen(step):
        at = step % 64
        return {"video": video[:, :, 2 * at :][:, :, :2], "audio": sound[..., 20 * at :][..., :20]}

    for step in range(1001):
        out = run.run(seen(step) | ring.feed())
        ring.take(out)
        if step + 1 in (1, window, window + 1, 1000, 1001):
            first = max(0, step + 1 - reach)  # nothing before reaches the last step
            parts = [seen(index) for index in range(first, step + 1)]
            with torch.no_grad():
                latents, pooled = model(
                    *(
                        torch.from_numpy(np.concatenate([part[name] for part in parts], axis))
                        for name, axis in (("video", 2), ("audio", 3))
                    )
                )
            np.testing.assert_allclose(out["latents"][0], latents[0, -1], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(out["pooled"][0, 0], pooled[0, -1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_100_000_steps_are_finite_without_drift_or_growth(tmp_path):
    model = micro()
    run = step_engine(model, tmp_path, "onnxruntime")
    ring = KvRing(run.inputs, run.outputs)
    films = [senses_at(step) for step in range(16)]
    first, resident = {}, []
    for step in range(100_000):
        out = run.run(films[step % 16] | ring.feed())
        ring.take(out)
        if 64 <= step < 80:
            first[step % 16] = out["latents"]
        if step % 10_000 == 9_999:
            resident.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if step % 9_973 == 80:
            assert np.isfinite(out["latents"]).all()
            np.testing.assert_allclose(out["latents"], first[step % 16], rtol=1e-4, atol=1e-4)
    assert resident[-1] - resident[1] < 2_000  # KiB


@pytest.mark.filterwarnings("ignore")
def test_a_causal_model_gives_the_same_latents_by_clips_until_history_matters(tmp_path):
    """By clips, only the last window is seen: equal in the first window, other after it."""
    from jepa_edge.bench.surprise import relative_error
    from jepa_edge.bundle import open_bundle
    from jepa_edge.export.pipeline import ExportConfig, export
    from jepa_edge.model.checkpoint import save_checkpoint
    from jepa_edge.runtimes.sources import StepData
    from jepa_edge.runtimes.stream import Stream

    save_checkpoint(micro(), tmp_path / "m.safetensors")
    config = ExportConfig(
        model=str(tmp_path / "m.safetensors"), precisions=("fp32",), out=tmp_path / "m.jepa"
    )
    export(config, lambda *_: None)
    bundle = open_bundle(tmp_path / "m.jepa")
    by_step, by_clip = Stream(bundle, "fp32"), Stream(bundle, "fp32", clips=True)
    for step in range(3 * W):
        data = StepData(index=step, captured_ns=0, **senses_at(step))
        ours, theirs = by_step.encode(data), by_clip.encode(data)
        if step < W - 1:
            assert theirs is None
            continue
        error = relative_error(theirs[1], ours[1])
        assert error < 1e-4 if step == W - 1 else error < 0.5
