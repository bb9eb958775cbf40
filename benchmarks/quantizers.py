r"""Three quantizers on one model and one calibration set: ours (NNCF), ONNX Runtime, ModelOpt.

pip install --no-deps --target build/modelopt nvidia-modelopt onnx_graphsurgeon onnxslim PuLP \
    lief polygraphy onnxconverter-common cppimport omegaconf onnx==1.21.0 onnx-ir==1.1.0 \
    onnxscript==0.7.2
python benchmarks/quantizers.py --modelopt build/modelopt

Model Optimizer pins an older onnx, so it lives in a folder of its own and runs in a process of its
own; without --modelopt it is left out. Each makes int8 Q/DQ ONNX of nano's encoder, and of the same
encoder with outlier channels (the same function in fp32), from the same calibration calls; each is
compared with fp32 on held-out clips and timed in turns in ONNX Runtime, and given to the real
TensorRT-RTX builder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from jepa_edge.bench import machine
from jepa_edge.bench.facts import Machine, Timing
from jepa_edge.bench.measure import interleaved, timing_from
from jepa_edge.bundle import Graph, OutputParity
from jepa_edge.contract import Feed, Tensors
from jepa_edge.export.trace import onnx_from
from jepa_edge.media.clips import clips_from
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graph_source import run_source
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.quantize.compile import quantized
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.runtimes.engine import host_engine
from jepa_edge.runtimes.parity import parity_of
from jepa_edge.runtimes.tensorrt_rtx import tensorrt_check

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.quantize.outliers import outliers  # noqa: E402

RESULT = Path(__file__).with_suffix(".json")
ROUNDS, SAMPLES, HELDOUT = 25, 12, 20
MODELOPT = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
source, samples, out = sys.argv[1:]
arrays = dict(np.load(samples))
quantize(source, quantize_mode="int8", calibration_data=arrays, calibration_eps=["cpu"],
         high_precision_dtype="fp32", output_path=out, log_level="ERROR")
"""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One quantizer on one model; `error` tells why it has no numbers."""

    model: str
    quantizer: str
    parity: dict[str, OutputParity] = {}
    timing: Timing | None = None
    times_fp32: float | None = None
    tensorrt: str = ""
    error: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    calibration_calls: int
    heldout_clips: int
    ways: list[Way]


class _Reader(CalibrationDataReader):
    def __init__(self, samples: list[Tensors]) -> None:
        self.rest: Iterator[Tensors] = iter(samples)

    def get_next(self) -> Tensors | None:  # type: ignore[override]
        return next(self.rest, None)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modelopt", help="the folder that Model Optimizer was installed into")
    given = parser.parse_args()
    load = machine.load()
    ways: list[Way] = []
    with tempfile.TemporaryDirectory(prefix="quantizers-") as folder:
        for model in ("nano", "nano with outliers"):
            place = Path(folder) / model.replace(" ", "-")
            place.mkdir()
            ways += _compared(model, place, given.modelopt)
    found = Result(
        machine=machine.machine(0, load),
        calibration_calls=SAMPLES,
        heldout_clips=HELDOUT,
        ways=ways,
    )
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    for way in ways:
        sys.stdout.write(json.dumps(msgspec.to_builtins(way)) + "\n")


def _compared(name: str, folder: Path, modelopt: str | None) -> list[Way]:
    model: Any = load_checkpoint("builtin:nano").model
    assert isinstance(model, JEPA)
    if name != "nano":
        model = outliers(model)
    source = next(one for one in graphs_of(model.eval()) if one.name == "encoder")
    exact, senses = onnx_from(source), model.config.senses
    calibration = clips_from(
        "builtin:calibration", senses, steps=model.config.window, limit=SAMPLES
    )
    samples = [{"video": clip.video[None], "audio": clip.audio[None]} for clip in calibration]
    heldout = clips_from(
        "builtin:heldout", senses, steps=model.config.window, stride=2, limit=HELDOUT
    )
    feeds = []
    for clip in heldout:
        inputs = {"video": clip.video[None], "audio": clip.audio[None]}
        feeds.append(Feed(clip=clip.name, inputs=inputs, outputs=run_source(source, inputs)))
    onnx.save_model(exact, str(folder / "fp32.onnx"))
    makers: dict[str, Callable[[Path], None]] = {
        "fp32": lambda _out: None,
        "jepa-edge": lambda out: _ours(exact, samples, out),
        "ONNX Runtime": lambda out: _onnxruntime(folder / "fp32.onnx", samples, out),
    }
    if modelopt:
        makers["Model Optimizer"] = lambda out: _modelopt(modelopt, folder, samples, out)
    graph = Graph(path="", inputs=source.inputs, outputs=source.outputs)
    engines, ways = {}, []
    for quantizer, make in makers.items():
        file = folder / f"{quantizer.replace(' ', '-')}.onnx"
        try:
            make(file)
            engines[quantizer] = engine = host_engine("onnxruntime", file, graph, "f32")
            check = tensorrt_check(file)
            told = f"{check.status}: {check.detail}"
            parity = parity_of(engine, feeds)
            ways.append(Way(model=name, quantizer=quantizer, parity=parity, tensorrt=told))
        except Exception as error:  # noqa: BLE001  (a rival that fails is a result)
            ways.append(Way(model=name, quantizer=quantizer, error=str(error)[-500:]))
    taken = interleaved(
        {one: lambda engine=engine: engine.run(feeds[0].inputs) for one, engine in engines.items()},
        ROUNDS,
    )
    return [
        msgspec.structs.replace(
            way,
            timing=timing_from(taken[way.quantizer]),
            times_fp32=round(float(np.median(taken["fp32"] / taken[way.quantizer])), 3),
        )
        if way.quantizer in taken
        else way
        for way in ways
    ]


def _ours(exact: onnx.ModelProto, samples: list[Tensors], out: Path) -> None:
    recipe = recipe_for("int8", "onnxruntime")
    onnx.save_model(quantized("onnxruntime", exact, recipe, samples), str(out))


def _onnxruntime(source: Path, samples: list[Tensors], out: Path) -> None:
    """Its documented way for transformers: symmetric, by channel, matrix products."""
    quantize_static(
        str(source),
        str(out),
        _Reader(samples),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["MatMul", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )


def _modelopt(site: str, folder: Path, samples: list[Tensors], out: Path) -> None:
    stacked = {name: np.concatenate([one[name] for one in samples]) for name in samples[0]}
    np.savez(folder / "samples.npz", allow_pickle=False, **stacked)
    argv = [sys.executable, "-c", MODELOPT, folder / "fp32.onnx", folder / "samples.npz", out]
    done = subprocess.run(
        argv,
        env={**os.environ, "PYTHONPATH": site},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-800:])


if __name__ == "__main__":
    main()
