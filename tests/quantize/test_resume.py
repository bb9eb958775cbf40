"""Killed at any moment and started again: it goes on, and no bundle is ever half there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from jepa_edge.bundle import MANIFEST, new_bundle, open_bundle
from jepa_edge.contract import Senses, VideoSpec
from jepa_edge.export.pipeline import ExportConfig, export
from jepa_edge.model.checkpoint import save_checkpoint
from jepa_edge.model.config import ActionConfig, EncoderConfig, ModelConfig
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.cache import Cache, key_of

MICRO = ModelConfig(
    name="micro",
    encoder=EncoderConfig(dim=32, depth=1, heads=2),
    predictor=None,
    action=ActionConfig(dim=16, depth=1, heads=1, candidates=4),
    senses=Senses(video=VideoSpec(height=32, width=32)),
    window=4,
    pooled_dim=16,
)
pytestmark = pytest.mark.filterwarnings("ignore")


def quiet(*_args):
    pass


def test_a_value_is_made_once_and_a_failure_leaves_nothing(tmp_path):
    cache = Cache(tmp_path)
    made = []

    def make():
        made.append(1)
        return [1.5, 2.5]

    assert cache.value("a", list[float], make) == [1.5, 2.5]
    assert cache.value("a", list[float], make) == [1.5, 2.5]
    assert len(made) == 1

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        cache.entry("b", fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_keys_tell_everything_apart():
    import numpy as np

    tensor = np.zeros((2, 3), np.float32)
    keys = {
        key_of(tensor),
        key_of(tensor.reshape(3, 2)),
        key_of(tensor.astype(np.float64)),
        key_of({"a": tensor}),
        key_of("a", "b"),
        key_of("ab"),
        key_of(b"a"),
    }
    assert len(keys) == 7
    assert key_of({"b": 1, "a": 2}) == key_of({"a": 2, "b": 1})


def test_what_a_killed_process_left_is_cleared(tmp_path):
    out = tmp_path / "x.jepa"
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    stale = tmp_path / f".x.jepa.{done.pid}-abc.part"
    stale.mkdir()
    mine = tmp_path / f".x.jepa.{os.getpid()}-abc.part"
    mine.mkdir()
    with new_bundle(out) as folder:
        (folder / MANIFEST).write_text("{}")
    assert not stale.exists()
    assert mine.exists()
    assert (out / MANIFEST).is_file()


@pytest.mark.slow
def test_killed_at_several_moments_it_resumes(tmp_path):
    torch.manual_seed(0)
    save_checkpoint(JEPA(MICRO), tmp_path / "micro.safetensors")
    fp32 = tmp_path / "fp32.jepa"
    export(
        ExportConfig(model=str(tmp_path / "micro.safetensors"), precisions=("fp32",), out=fp32),
        quiet,
    )
    out, cache = tmp_path / "out.jepa", tmp_path / "cache"
    command = [sys.executable, "-m", "jepa_edge.quantize", "--bundle", str(fp32), "--precision"]
    command += ["mixed", "--out", str(out), "--json", "--keep-failing"]
    environment = os.environ | {"JEPA_EDGE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    entries = 0
    for wanted in (1, 3, 5):
        killed = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while killed.poll() is None and len(finished(cache)) < wanted:
            time.sleep(0.02)  # polls a folder; how long it takes is of no matter
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not out.exists()
        assert len(finished(cache)) >= max(wanted, entries)
        entries = len(finished(cache))
    before = {entry: entry.stat().st_ctime_ns for entry in finished(cache)}
    whole = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(whole.stdout)["resumed"] >= entries
    assert all(entry.exists() for entry in before)
    assert "mixed" in open_bundle(out).manifest.precisions
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def finished(cache: Path):
    folder = cache / "quantize"
    return [e for e in folder.iterdir() if not e.name.startswith(".")] if folder.is_dir() else []
