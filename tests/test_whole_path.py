"""The tiniest model through export, run and its failures; every graph in the real engine."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from jepa_edge.bench.closed_loop import EPISODES_FILE, ClosedLoopConfig, evaluate
from jepa_edge.bench.flights import Flight
from jepa_edge.bundle import MANIFEST, open_bundle, pack, unpack
from jepa_edge.contract import CheckFailedError, InputError, Senses, VideoSpec, WrongUseError
from jepa_edge.devices.targets import target, target_names
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import clips_from
from jepa_edge.model.checkpoint import save_checkpoint
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig, PredictorConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.calibration import check_real, refuse_random
from jepa_edge.quantize.int8 import embedding_patterns
from jepa_edge.runtimes.loop import Loop
from jepa_edge.runtimes.pipeline import RunConfig
from jepa_edge.runtimes.pipeline import run as run_bundle
from jepa_edge.runtimes.planner import PlannerConfig
from jepa_edge.runtimes.sources import open_source
from jepa_edge.runtimes.stream import Stream
from tests.robot import robot_python

CLIP = str(Path("jepa_edge/assets/clips/movie-hello.mp4").resolve())


def quiet(*_args):
    pass


def micro(**encoder):
    fields = {"dim": 32, "depth": 1, "heads": 2} | encoder
    return ModelConfig(
        name="micro",
        encoder=EncoderConfig(**fields),
        predictor=PredictorConfig(dim=16, depth=1, heads=1),
        action=ActionConfig(dim=16, depth=1, heads=1, candidates=4),
        senses=Senses(video=VideoSpec(height=32, width=32)),
        window=4,
        pooled_dim=16,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "micro.safetensors"
    save_checkpoint(JEPA(micro()), path)
    return str(path)


@pytest.fixture(scope="module")
def bundle(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "micro.jepa"
    config = ExportConfig(model=checkpoint, precisions=("fp32", "int8"), out=out, keep_failing=True)
    export(config, quiet)
    return out


@pytest.mark.filterwarnings("ignore")
def test_export_writes_what_it_measured(bundle):
    manifest = open_bundle(bundle).manifest
    assert set(manifest.precisions) == {"fp32", "int8"}
    for graphs in (entry.graphs for entry in manifest.precisions.values()):
        assert set(graphs) == {"encoder", "predictor", "step", "rollout"}
    assert all(
        parity.cosine_worst > 0.9999
        for graph in manifest.precisions["fp32"].graphs.values()
        for parity in graph.parity.values()
    )
    assert manifest.precisions["int8"].calibration


def test_a_run_gives_one_prediction_a_step_without_torch(bundle, tmp_path):
    out = tmp_path / "ticks.jsonl"
    program = (
        "import sys\n"
        "for heavy in ('torch', 'onnx', 'nncf'): sys.modules[heavy] = None\n"
        "from jepa_edge.runtimes.__main__ import main\n"
        f"sys.argv = ['run', '--bundle', {str(bundle)!r}, '--camera', {CLIP!r}, '--fast',"
        f" '--precision', 'int8', '--steps', '9', '--controller', 'file:{out}']\n"
        "main()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    ticks = [json.loads(line) for line in out.read_text().splitlines()]
    assert [tick["step"] for tick in ticks] == list(range(9))
    assert [tick["state"] for tick in ticks] == ["warming"] * 3 + ["ok"] * 6
    assert all(len(tick["prediction"]) == 2 for tick in ticks[3:])
    assert all(tick["surprise"] > 0 for tick in ticks[4:])


@pytest.mark.slow
def test_a_robot_without_torch_installs_what_it_needs_and_runs(bundle, tmp_path):
    python = robot_python(tmp_path, ("openvino", "sensors"))
    for heavy in ("torch", "onnx", "nncf", "pytest"):
        there = subprocess.run([python, "-c", f"import {heavy}"], capture_output=True, text=True)
        assert "ModuleNotFoundError" in there.stderr
    command = [python, "-m", "jepa_edge", "run", "--bundle", bundle, "--camera", CLIP]
    command += ["--fast", "--precision", "int8", "--steps", "9"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    ticks = [json.loads(line) for line in done.stdout.splitlines()]
    assert [tick["state"] for tick in ticks] == ["warming"] * 3 + ["ok"] * 6
    for verb in (["devices"], ["inspect", bundle], ["run", "--help"]):
        subprocess.run([python, "-m", "jepa_edge", *verb], capture_output=True, check=True)


def test_bad_data_and_a_failing_engine_hold_and_recover(bundle):
    opened = open_bundle(bundle)
    source = open_source(CLIP, CLIP, opened.manifest.senses, fast=True)
    steps = list(source.steps())[:16]
    steps[6] = msgspec.structs.replace(steps[6], video=np.full_like(steps[6].video, np.nan))
    stream = Stream(opened, "fp32")
    encode = stream.encode

    def failing(step):
        if step.index == 12:
            raise RuntimeError("the accelerator is gone")
        return encode(step)

    stream.encode = failing

    class Replay:
        def steps(self):
            yield from steps

    ticks = list(Loop(stream, age_limit_ms=1e9).ticks(Replay()))
    assert [t.step for t in ticks if t.state == "hold"] == [6, 12]
    assert "not finite" in ticks[6].reason
    assert "accelerator is gone" in ticks[12].reason
    assert ticks[6].latent is None
    assert ticks[6].prediction is None
    assert ticks[10].state == "ok"  # a window later the prediction is back
    stale = Loop(Stream(opened, "fp32"), age_limit_ms=-1.0)
    assert {t.state for t in stale.ticks(Replay())} == {"hold"}


@pytest.mark.filterwarnings("ignore")
def test_precisions_fly_the_same_scenes_the_same_way_and_go_on_where_they_stopped(bundle, tmp_path):
    def flown(out, episodes, film=None):
        config = ClosedLoopConfig(
            bundle=bundle,
            world="reach",
            episodes=episodes,
            steps=12,
            threads=1,
            planner=PlannerConfig(iterations=2),
            film=film,
            out=tmp_path / out,
        )
        try:
            return evaluate(config, quiet)
        except InputError as error:
            pytest.skip(str(error))

    def places(out):
        lines = (tmp_path / out / EPISODES_FILE).read_bytes().splitlines()
        return [
            msgspec.structs.replace(msgspec.json.decode(line, type=Flight), plan_ms=[])
            for line in lines
        ]

    whole = flown("whole", 4, tmp_path / "flight.gif")
    flown("parts", 2)
    flown("parts", 4)
    assert places("whole") == places("parts")
    assert (
        whole.film.steps
        == json.loads((tmp_path / "whole" / EPISODES_FILE).open().readline())["steps"]
    )
    assert (tmp_path / "flight.gif").read_bytes().startswith(b"GIF89a")
    pilots = {pilot.pilot: pilot for pilot in whole.pilots}
    assert set(pilots) == {"fp32", "int8", "expert", "random"}
    assert pilots["expert"].success.share == 1.0
    assert {pilot.episodes for pilot in whole.pilots} == {4 - whole.left_out}
    assert pilots["int8"].plan_ms_p50 > 0
    assert pilots["random"].in_time is None


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ("flip", CheckFailedError, "SHA-256"),
        ("future", InputError, "newer jepa-edge"),
        ("gone", InputError, "no bundle"),
        ("escape", CheckFailedError, "outside"),
    ],
)
def test_a_broken_bundle_is_refused(bundle, tmp_path, change, error, says):
    import shutil

    copy = tmp_path / "copy.jepa"
    shutil.copytree(bundle, copy)
    manifest = copy / MANIFEST
    if change == "flip":
        file = copy / "int8" / "step.bin"
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(bytes(data))
    elif change == "gone":
        manifest.unlink()
    else:
        fields = json.loads(manifest.read_text())
        if change == "future":
            fields["schema"] = "9.0"
        else:
            fields["files"]["../outside"] = "0" * 64
        manifest.write_text(json.dumps(fields))
    with pytest.raises(error, match=says):
        run_bundle(RunConfig(bundle=copy, camera=CLIP, mic=CLIP, controller="none"))


def test_a_packed_bundle_runs_and_packs_the_same_twice(bundle, tmp_path):
    first, second = tmp_path / "a.tar.zst", tmp_path / "b.tar.zst"
    pack(open_bundle(bundle), first)
    unpack(first, tmp_path / "again")
    pack(open_bundle(tmp_path / "again"), second)
    assert first.read_bytes() == second.read_bytes()
    config = RunConfig(bundle=first, camera=CLIP, mic="none", controller="none", fast=True, steps=5)
    assert run_bundle(config).steps == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_every_traced_graph_gives_the_eager_numbers(attention, half):
    torch.manual_seed(0)
    model = JEPA(micro(attention=attention)).eval()
    for source in graphs_of(model):
        before = [p.clone() for p in model.parameters()]
        graph = onnx_from(source, half=half)
        assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        inputs = [torch.randn(spec.shape) for spec in source.inputs]
        with torch.no_grad():
            eager = source.module(*inputs)
        eager = eager if isinstance(eager, tuple) else (eager,)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        kind = np.float16 if half else np.float32
        feed = {
            spec.name: tensor.numpy().astype(kind)
            for spec, tensor in zip(source.inputs, inputs, strict=True)
        }
        tolerance = 3e-2 if half else 1e-4
        for ours, theirs in zip(session.run(None, feed), eager, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=tolerance, atol=tolerance)
    assert embedding_patterns(onnx_from(graphs_of(model)[0], half=False))


@pytest.mark.filterwarnings("ignore")
def test_jetson_graphs_build_in_the_real_compiler(checkpoint, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
    out = tmp_path / "micro.jepa"
    config = ExportConfig(
        model=checkpoint, target="jetson", precisions=("int8",), out=out, keep_failing=True
    )
    manifest = export(config, quiet).manifest
    for graph in manifest.precisions["int8"].graphs.values():
        status = {check.name.split(",")[0]: check.status for check in graph.checks}
        assert status["TensorRT-RTX build"] == "passed", graph.checks
        assert "not run here" in status.values()


@pytest.mark.filterwarnings("ignore")
def test_a_missed_floor_writes_nothing(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("jepa_edge.runtimes.parity.FLOORS", {"fp32": (1.1, 1.1)})
    out = tmp_path / "x.jepa"
    with pytest.raises(CheckFailedError, match=r"encoder in fp32 .*needs 1\.1"):
        export(ExportConfig(model=checkpoint, precisions=("fp32",), out=out), quiet)
    assert list(tmp_path.iterdir()) == []


def test_calibration_must_be_real():
    with pytest.raises(WrongUseError, match="never calibrated on random"):
        refuse_random("random:64")
    (clip,) = clips_from(CLIP, Senses(), steps=8, limit=1)
    assert check_real([clip])  # few clips are warned about, not refused
    noise = np.random.default_rng(0).standard_normal(clip.video.shape).astype(np.float32)
    with pytest.raises(InputError, match="random noise"):
        check_real([msgspec.structs.replace(clip, video=noise)])
    with pytest.raises(InputError, match="constant"):
        check_real([msgspec.structs.replace(clip, video=np.zeros_like(noise))])


def test_targets_are_known_and_honest():
    for name in target_names():
        found = target(name)
        assert set(found.default_precisions) <= set(found.precisions)
    assert target("jetson").name == "jetson-orin-nano"
    with pytest.raises(WrongUseError, match=r"did you mean jetson"):
        target("jetsn")
    with pytest.raises(WrongUseError, match="no fp8 tensor cores"):
        target("jetson").legal("fp8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--camera", "none.mp4"], "no media file"),
        (["--camera", CLIP, "--controller", "robot:7"], "unknown controller"),
        (["--camera", CLIP, "--precision", "fp8"], "no precision 'fp8'"),
    ],
)
def test_the_command_line_says_what_is_wrong(bundle, arguments, says):
    command = [sys.executable, "-m", "jepa_edge.runtimes", "--bundle", str(bundle), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.filterwarnings("ignore")
def test_int8_counts_the_steps_of_a_stream_exactly(checkpoint, tmp_path):
    out = tmp_path / "onnx.jepa"
    config = ExportConfig(
        model=checkpoint, target="generic-onnx", precisions=("int8",), out=out, keep_failing=True
    )
    export(config, quiet)
    graph = onnx.load(out / "step.onnx").graph
    quantized = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert quantized
    counted, reached = {"filled"}, set()
    while counted != reached:
        reached = set(counted)
        for node in graph.node:
            if set(node.input) & counted and node.op_type != "Add":
                counted |= set(node.output)
    assert len(counted) > 1
    assert not counted & quantized
