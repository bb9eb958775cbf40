"""jepa-edge build: through TensorRT-RTX's real builder; activation, audit and refusals."""

import json
import subprocess
import sys
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from jepa_edge.bundle import Graph, file_sha256, open_bundle
from jepa_edge.contract import CheckFailedError, InputError, WrongUseError
from jepa_edge.runtimes.engine_onnxruntime import OnnxRuntimeEngine
from jepa_edge.runtimes.engine_tensorrt import active_plan
from jepa_edge.runtimes.plan_audit import audit_from
from jepa_edge.runtimes.plan_building import (
    BuildConfig,
    build_plans,
    golden_parity,
    judged_record,
)
from jepa_edge.runtimes.plans import Board, PlanStore, _keep_timings, _network_flags, _timing_cache

BOARD = Board(compiler="tensorrt 10.3.0", capability="SM87", l4t="36.4.3", power_mode="MAXN")


def quiet(*_args):
    pass


@pytest.fixture
def jetson(micro_bundle):
    """The micro bundle as a Jetson one, with golden calls of its real graphs."""
    manifest = micro_bundle / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["engine"], fields["target"] = "tensorrt", "jetson-orin-nano"
    rng = np.random.default_rng(0)
    golden = {}
    for name, graph in fields["precisions"]["fp32"]["graphs"].items():
        typed = msgspec.convert(graph, Graph)
        engine = OnnxRuntimeEngine(micro_bundle / graph["path"], typed, 1)
        given = {s.name: rng.normal(size=s.shape).astype(np.float32) for s in typed.inputs}
        golden |= {f"{name}/in/{key}": array for key, array in given.items()}
        golden |= {f"{name}/out/{key}": array for key, array in engine.run(given).items()}
    np.savez(micro_bundle / "golden.npz", **golden)
    fields["golden"] = "golden.npz"
    fields["files"]["golden.npz"] = file_sha256(micro_bundle / "golden.npz")
    manifest.write_text(json.dumps(fields))
    return micro_bundle


def test_plans_are_built_once_by_the_real_compiler_and_not_activated_here(jetson, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
    store = PlanStore(tmp_path / "plans")
    phases = []
    config = BuildConfig(bundle=jetson, compiler="tensorrt-rtx", precisions=("fp32",))
    built = build_plans(config, lambda *told: phases.append(told), store)
    assert [one.graph for one in built.plans] == ["fp32/encoder", "fp32/predictor", "fp32/rollout"]
    assert {one.status for one in built.plans} == {"not run here"}
    assert all(one.plan_mib > 0 for one in built.plans)
    assert any("Building engine" in phase for phase, _, _ in phases)
    plans = {file: file.stat().st_mtime_ns for file in (tmp_path / "plans").glob("*.plan")}
    assert len(plans) == 3
    assert build_plans(config, quiet, store).plans == built.plans
    assert plans == {file: file.stat().st_mtime_ns for file in plans}
    again = msgspec.structs.replace(config, again=True)
    build_plans(again, quiet, store)
    assert all(file.stat().st_mtime_ns > before for file, before in plans.items())


def test_only_a_plan_whose_numbers_hold_becomes_active(jetson, tmp_path):
    bundle = open_bundle(jetson)
    graph = bundle.manifest.precisions["fp32"].graphs["encoder"]

    def judge(path):
        engine = OnnxRuntimeEngine(path, graph, 1)
        return lambda _plan: (golden_parity(engine, bundle, "encoder"), None)

    good = judged_record("fp32/encoder", "0" * 64, BOARD, b"plan", judge(bundle.path(graph.path)))
    assert good.status == "active"
    assert good.parity["latents"].cosine_worst > 0.9999
    rounded = bundle.path(bundle.manifest.precisions["int8"].graphs["encoder"].path)
    bad = judged_record("fp32/encoder", "0" * 64, BOARD, b"plan", judge(rounded))
    assert bad.status == "failed"
    assert "cosine" in bad.detail
    none = judged_record("fp32/encoder", "0" * 64, BOARD, b"plan", lambda _: ({}, None))
    assert none.status == "failed"
    assert "golden" in none.detail


def test_the_engine_runs_active_plans_of_this_board_only(jetson, tmp_path):
    store, sha, path = PlanStore(tmp_path), "a" * 64, tmp_path / "encoder.onnx"
    with pytest.raises(CheckFailedError, match=r"jepa-edge build"):
        active_plan(store, BOARD, sha, path)
    record = judged_record("fp32/encoder", sha, BOARD, b"plan", None)
    store.keep(BOARD.key(sha), b"plan", record)
    with pytest.raises(CheckFailedError, match="may not run"):
        active_plan(store, BOARD, sha, path)
    store.keep(BOARD.key(sha), b"plan", msgspec.structs.replace(record, status="active"))
    assert active_plan(store, BOARD, sha, path) == b"plan"
    for change in ({"compiler": "tensorrt 10.4.0"}, {"l4t": "36.5.0"}, {"power_mode": "15W"}):
        with pytest.raises(CheckFailedError, match="no plan for this board"):
            active_plan(store, msgspec.structs.replace(BOARD, **change), sha, path)
    (tmp_path / f"{BOARD.key(sha)}.plan").write_bytes(b"else")
    with pytest.raises(CheckFailedError, match="missing or changed"):
        active_plan(store, BOARD, sha, path)


def test_tensorrt_10_is_asked_for_strong_typing_and_11_has_nothing_else():
    ten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1))
    eleven = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert _network_flags(ten) == 2
    assert _network_flags(eleven) == 0


class TimedConfig:
    """The part of a builder's configuration that timings pass through."""

    def __init__(self):
        self.cache = None

    def create_timing_cache(self, known):
        return None if known == b"of another GPU" else SimpleNamespace(serialize=lambda: known)

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.cache = SimpleNamespace(serialize=lambda: cache.serialize() + b"+kernel")

    def get_timing_cache(self):
        return self.cache


def test_timings_grow_from_build_to_build_and_others_are_not_used(tmp_path):
    file = tmp_path / "board.timings"
    for expected in (b"+kernel", b"+kernel+kernel"):
        config = TimedConfig()
        _timing_cache(config, file)
        _keep_timings(config, file)
        assert file.read_bytes() == expected
    file.write_bytes(b"of another GPU")
    config = TimedConfig()
    _timing_cache(config, file)
    _keep_timings(config, file)
    assert file.read_bytes() == b"+kernel"


def layer(name, kind, given="Half", **more):
    ports = [{"Name": "x", "Dimensions": [1, 8], "Format/Datatype": f"Row major linear {given}"}]
    return {"Name": name, "LayerType": kind, "Inputs": ports, "Outputs": ports, **more}


def test_an_audit_tells_fused_attention_and_the_precision_that_ran():
    layers = [
        layer("encoder.blocks.0.attn.qkv/MatMul", "gemm", "Int8"),
        layer("__myl_Fc_fmha_0x12", "kgen", TacticName="_gemm_mha_v2_0x9"),
        layer("encoder.blocks.1.attn/MatMul", "MatrixMultiply"),
        layer("encoder.blocks.1.attn/Softmax", "SoftMax"),
        layer("Reformatting CopyNode for x", "Reformat"),
    ]
    audit = audit_from(json.dumps({"Layers": layers, "Bindings": []}))
    assert audit.layers == 5
    assert audit.heavy == {"int8": 1, "fp16": 2}
    assert audit.attention_fused == ["__myl_Fc_fmha_0x12"]
    assert audit.attention_open == ["encoder.blocks.1.attn/Softmax"]
    assert "1 attention blocks are not fused" in audit.warnings[0]
    assert audit.missing("int8") == []
    silent = audit_from(json.dumps({"Layers": [layer("fc/MatMul", "gemm", "Float")]}))
    assert silent.missing("fp16") == ["no matrix product runs in fp16: 1 fp32"]
    with pytest.raises(InputError, match="no JSON"):
        audit_from("engine is not built with detailed verbosity")


def test_it_says_what_cannot_be_built(micro_bundle, jetson, tmp_path):
    fields = json.loads((jetson / "manifest.json").read_text())
    with pytest.raises(WrongUseError, match="no precision 'fp8'"):
        build_plans(BuildConfig(bundle=jetson, compiler="tensorrt-rtx", precisions=("fp8",)), quiet)
    fields["engine"] = "onnxruntime"
    (jetson / "manifest.json").write_text(json.dumps(fields))
    command = [sys.executable, "-m", "jepa_edge.runtimes.build", "--bundle", str(jetson)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "builds nothing" in done.stderr
