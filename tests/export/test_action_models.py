"""V-JEPA 2-AC's rollout step and LeWM's graphs, in every engine and precision they are for."""

import openvino as ov
import pytest
import torch

from jepa_edge.bundle import open_bundle
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.quantize.decided import NAME
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.parity import FLOORS
from tests.model.test_lewm import random_weights, vit
from tests.model.test_meta import action_weights, encoder_weights, saved

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


def checkpoint(kind, folder):
    torch.manual_seed(0)
    if kind == "rollout_step":
        return saved(folder / "ac.pt", encoder=encoder_weights(), predictor=action_weights())
    torch.save(random_weights(vit()), folder / "lewm.pt")
    return str(folder / "lewm.pt")


def exported(kind, target, precisions, folder):
    shape = ClipShape(height=32, width=48) if kind == "rollout_step" else None
    config = ExportConfig(
        model=checkpoint(kind, folder),
        target=target,
        precisions=precisions,
        out=folder / "a.jepa",
        shape=shape,
        keep_failing=kind == "rollout",  # random weights choose among near ties
    )
    export(config, lambda *_: None)
    return open_bundle(folder / "a.jepa")


@pytest.mark.parametrize("kind", ["rollout_step", "rollout"])
def test_openvino_runs_them_in_fp32_bf16_and_int8(kind, tmp_path):
    bundle = exported(kind, "x86-cpu", ("fp32", "bf16", "int8"), tmp_path)
    for name, entry in bundle.manifest.precisions.items():
        assert set(entry.graphs) == {"encoder", kind}
        for graph, facts in entry.graphs.items():
            assert facts.parity, f"{graph} was not compared"
            mean, p1 = FLOORS[facts.precision or name]
            assert all(p.cosine_mean >= mean for p in facts.parity.values())
            assert all(p.cosine_p1 >= p1 for p in facts.parity.values())
            quantized = "FakeQuantize" in bundle.path(facts.path).read_text()
            whole = facts.precision is not None or graph == "rollout"  # what a planner chooses by
            assert quantized == (name == "int8" and not whole)
        chosen = {check.name: check for check in entry.graphs[kind].checks}.get(NAME)
        assert (chosen is not None) == (kind == "rollout")  # what acts is asked what it decides
        if name == "fp32" and chosen:
            assert chosen.status == "passed"
            assert chosen.detail.startswith("100.0%")
        engine = open_engine(bundle, kind, name, threads=1)
        own = entry.graphs[kind].inference_precision  # a rollout stays in fp32 beside bf16 floats
        asked = own or entry.inference_precision
        can = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        assert engine.precision_used == (asked if can else "f32")


@pytest.mark.parametrize("kind", ["rollout_step", "rollout"])
def test_tensorrt_parses_and_builds_them_in_fp16_and_int8(kind, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings", reason="comes with the tensorrt extra")
    bundle = exported(kind, "jetson", ("fp16", "int8"), tmp_path)
    for entry in bundle.manifest.precisions.values():
        assert set(entry.graphs) == {"encoder", kind}
        for facts in entry.graphs.values():
            checks = {check.name: check for check in facts.checks}
            assert checks["TensorRT-RTX build, SM86"].status == "passed"
            assert "plan of" in checks["TensorRT-RTX build, SM86"].detail
