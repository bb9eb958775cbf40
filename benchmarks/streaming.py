"""What a step of a stream costs, beside encoding the whole window again at each step.

python benchmarks/streaming.py prepare /tmp/streaming     # ViT-S at 224, window 8, random weights
python benchmarks/streaming.py measure /tmp/streaming     # on a quiet machine

Both graphs run in the same engine and precision, in turns, in one process. A step is timed whole:
memory handed to the engine, the call, and the new keys and values written to their slot.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from jepa_edge.bench.facts import Machine, Timing
from jepa_edge.bench.machine import load, machine
from jepa_edge.bench.measure import interleaved, timing_from
from jepa_edge.bundle import EngineName, Graph
from jepa_edge.contract import CacheType, Tensors
from jepa_edge.front import stderr
from jepa_edge.media.clips import clips_from
from jepa_edge.quantize.compile import hint_for
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.runtimes.engine import Engine, host_engine
from jepa_edge.runtimes.feeds import Feeder
from jepa_edge.runtimes.ring import KvRing

RESULT = Path(__file__).parent / "results" / "streaming" / "vit-s-224-w8.json"
PRECISIONS = ("fp32", "bf16", "int8")
ENGINES: tuple[EngineName, ...] = ("openvino", "onnxruntime")
ROUNDS = 15


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One engine and precision: the window encoded again, a step, and how much cheaper that is."""

    engine: str
    precision: str
    precision_used: str
    clip: Timing
    step: Timing
    ratio: float
    cache_mib: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The committed file."""

    model: str
    window: int
    tokens_per_step: int
    machine: Machine
    rows: list[Row]


def prepare(folder: Path) -> None:
    """Writes the graphs of both engines in every precision that they have."""
    import torch

    from jepa_edge.export.trace import onnx_from
    from jepa_edge.model.graph_source import run_source
    from jepa_edge.model.graphs import graphs_of
    from jepa_edge.model.jepa import JEPA
    from jepa_edge.model.presets import preset
    from jepa_edge.quantize.compile import read_graph, write_graph

    torch.manual_seed(0)
    model = JEPA(preset("small")).eval()
    clips = clips_from("builtin:calibration", model.config.senses, steps=10, limit=2)
    for precision in PRECISIONS:
        cache: CacheType = "float32" if precision == "fp32" else "float16"
        sources = {source.name: source for source in graphs_of(model, cache)}
        feeder = Feeder(
            inputs={name: s.inputs for name, s in sources.items()},
            outputs={name: s.outputs for name, s in sources.items()},
            facts=model.facts(),
            senses=model.config.senses,
            call=lambda name, given, s=sources: run_source(s[name], given),
        )
        for name in ("encoder", "step"):
            traced = onnx_from(sources[name], half=False)
            samples: list[Tensors] = []
            if precision == "int8":
                samples = feeder.samples(name, clips)
            for engine in ENGINES:
                if (engine, precision) == ("onnxruntime", "bf16"):
                    continue
                stem = folder / engine / precision / name
                stem.parent.mkdir(parents=True, exist_ok=True)
                file = write_graph(engine, read_graph(engine, traced), precision, samples, stem)
                graph = Graph(
                    path=file.name, inputs=sources[name].inputs, outputs=sources[name].outputs
                )
                stem.with_suffix(".json").write_bytes(msgspec.json.encode(graph))
                stderr.print(file)


def measure(folder: Path) -> None:
    """Times what `prepare` wrote."""
    rng = np.random.default_rng(0)
    rows = []
    for engine, precision in itertools.product(ENGINES, PRECISIONS):
        place = folder / engine / precision
        if not place.is_dir():
            continue
        encoder, step = (_engine(place, engine, name) for name in ("encoder", "step"))
        whole = {spec.name: _noise(rng, spec.shape) for spec in encoder.inputs}
        seen = {s.name: _noise(rng, s.shape) for s in step.inputs if s.name in whole}
        ring = KvRing(step.inputs, step.outputs)
        calls = {"clip": lambda e=encoder, w=whole: e.run(w), "step": _step(step, seen, ring)}
        taken = {name: timing_from(ms) for name, ms in interleaved(calls, ROUNDS).items()}
        cache = sum(a.nbytes for n, a in ring.feed().items() if n.startswith("cache_"))
        rows.append(
            Row(
                engine=engine,
                precision=precision,
                precision_used=step.precision_used,
                ratio=round(taken["clip"].median_ms / taken["step"].median_ms, 2),
                cache_mib=round(cache / 2**20, 1),
                **taken,
            )
        )
        stderr.print(engine, precision, rows[-1].ratio)
        write(
            Result(
                model="ViT-S at 224 px with sound, random weights",
                window=ring.slots + 1,
                tokens_per_step=int(step.outputs[0].shape[1]),
                machine=machine(0, load()),
                rows=rows,
            )
        )


def write(result: Result) -> None:
    """Writes the file after each row: a measurement that is cut short keeps what it has."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    part = RESULT.with_suffix(".part")
    part.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    part.replace(RESULT)


def _engine(place: Path, engine: EngineName, name: str) -> Engine:
    graph = msgspec.json.decode((place / f"{name}.json").read_bytes(), type=Graph)
    hint = hint_for(engine, recipe_for(place.name, engine))
    return host_engine(engine, place / graph.path, graph, hint)


def _step(engine: Engine, seen: Tensors, ring: KvRing) -> Callable[[], None]:
    def call() -> None:
        ring.take(engine.run(seen | ring.feed()))

    return call


def _noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def main() -> None:
    """See the module."""
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "prepare":
        prepare(folder)
        return
    measure(folder)


if __name__ == "__main__":
    main()
