"""V-JEPA 2-AC's rollout step in OpenVINO, in every precision that it is exported in."""

import pytest
import torch

from jepa_edge.bundle import open_bundle
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.runtimes.engine import open_engine
from jepa_edge.runtimes.parity import FLOORS
from tests.model.test_meta import action_weights, encoder_weights, saved


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_openvino_runs_it_in_fp32_bf16_and_int8(tmp_path):
    torch.manual_seed(0)
    config = ExportConfig(
        model=saved(tmp_path / "ac.pt", encoder=encoder_weights(), predictor=action_weights()),
        target="x86-cpu",
        precisions=("fp32", "bf16", "int8"),
        out=tmp_path / "a.jepa",
        shape=ClipShape(height=32, width=48),
    )
    export(config, lambda *_: None)
    bundle = open_bundle(tmp_path / "a.jepa")
    for name, entry in bundle.manifest.precisions.items():
        assert set(entry.graphs) == {"encoder", "rollout_step"}
        for graph, facts in entry.graphs.items():
            assert facts.parity, f"{graph} was not compared"
            mean, p1 = FLOORS[facts.precision or name]
            assert all(p.cosine_mean >= mean for p in facts.parity.values())
            assert all(p.cosine_p1 >= p1 for p in facts.parity.values())
            quantized = "FakeQuantize" in bundle.path(facts.path).read_text()
            assert quantized == (name == "int8" and facts.precision is None)
        engine = open_engine(bundle, "rollout_step", name, threads=1)
        assert engine.precision_used == ("f32" if name == "fp32" else entry.inference_precision)
