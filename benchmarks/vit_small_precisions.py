"""Speed of fp32, bf16 and int8 at ViT-S size on this CPU, in turns: writes the JSON beside it.

python benchmarks/vit_small_precisions.py prepare build/vit-small   # trace and quantize: minutes
python benchmarks/vit_small_precisions.py time build/vit-small      # on a quiet machine

The weights are random: the times of a trained model are the same, its accuracy is not asked here.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench import machine
from jepa_edge.bench.facts import Machine, Timing
from jepa_edge.bench.measure import interleaved, timing_from
from jepa_edge.bundle import Graph

RESULT = Path(__file__).with_suffix(".json")
ROUNDS = 25
SAMPLES = 3


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """One precision: how OpenVINO was told to compute floats, and what it says it did."""

    precision: str
    floats: str
    precision_used: str
    timing: Timing
    times_fp32: float
    times_bf16: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    what: str
    machine: Machine
    rounds: int
    ways: list[Way]


def prepare(folder: Path) -> None:
    """Writes the encoder of preset ``small`` in every precision into `folder`."""
    import torch

    from jepa_edge.export.trace import onnx_from
    from jepa_edge.media.clips import clips_from
    from jepa_edge.model.graphs import graphs_of
    from jepa_edge.model.jepa import JEPA
    from jepa_edge.model.presets import PRESETS
    from jepa_edge.quantize.compile import quantized, read_graph, save_graph
    from jepa_edge.quantize.recipe import recipe_for

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    model = JEPA(PRESETS["small"]).eval()
    source = graphs_of(model)[0]
    graph = read_graph("openvino", onnx_from(source))
    clips = clips_from(
        "builtin:calibration", model.config.senses, steps=model.config.window, limit=SAMPLES
    )
    feeds = [{"video": clip.video[None], "audio": clip.audio[None]} for clip in clips]
    np.savez(folder / "feed.npz", **feeds[0])
    meta = Graph(path="", inputs=source.inputs, outputs=source.outputs)
    (folder / "graph.json").write_bytes(msgspec.json.encode(meta))
    for precision in ("fp32", "bf16", "int8"):
        recipe = recipe_for(precision, "openvino")
        made = quantized("openvino", graph, recipe, feeds)
        save_graph("openvino", made, recipe, folder / precision)


def measure(folder: Path) -> Result:
    """Single calls, in turns."""
    from jepa_edge.runtimes.engine_openvino import OpenVinoEngine

    graph = msgspec.json.decode((folder / "graph.json").read_bytes(), type=Graph)
    feed = dict(np.load(folder / "feed.npz"))
    load = machine.load()
    ways = [("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32"), ("int8", "bf16")]
    engines = {
        f"{precision} {hint}": OpenVinoEngine(folder / f"{precision}.xml", graph, hint, 0)
        for precision, hint in ways
    }
    samples = interleaved(
        {name: lambda engine=engine: engine.run(feed) for name, engine in engines.items()}, ROUNDS
    )
    timing = {name: timing_from(taken) for name, taken in samples.items()}
    ratios = {name: np.median(samples["fp32 f32"] / taken) for name, taken in samples.items()}
    halves = {name: np.median(samples["bf16 bf16"] / taken) for name, taken in samples.items()}
    return Result(
        what="encoder of preset small (ViT-S: 384 x 12 x 6), 8 steps at 224 px with sound, 1600 "
        "tokens, random weights; ratios are medians over rounds of neighbouring calls",
        machine=machine.machine(0, load),
        rounds=ROUNDS,
        ways=[
            Way(
                precision=name.split()[0],
                floats=name.split()[1],
                precision_used=engines[name].precision_used,
                timing=timing[name],
                times_fp32=round(float(ratios[name]), 3),
                times_bf16=round(float(halves[name]), 3),
            )
            for name in engines
        ],
    )


def main() -> int:
    """See the module."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("prepare", "time"):
        print(__doc__)  # noqa: T201
        return 2
    folder = Path(sys.argv[2])
    if sys.argv[1] == "prepare":
        prepare(folder)
        return 0
    result = measure(folder)
    RESULT.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    for way in result.ways:
        print(  # noqa: T201
            f"{way.precision} floats {way.floats}: {way.timing.median_ms:.0f} ms, "
            f"{way.times_fp32:.2f} x fp32, {way.times_bf16:.2f} x bf16"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
