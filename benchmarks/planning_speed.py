"""One planning iteration: K candidates over a horizon, ours against LeWM's, on this machine.

LeWM (arXiv 2603.19312, module of the package stable-worldmodel, MIT) plans as the field's fast
models do: an autoregressive predictor over one latent a frame. It runs here with random weights of
its published size, in PyTorch eager and compiled; ours run exported, one engine call an iteration.
`same size` is our rollout with as many weights as LeWM's predictor, so that what is left is the
graph and the engine; `pilot` is what flies the simulated robots.

    pip install --no-deps stable-worldmodel einops
    python benchmarks/planning_speed.py --out benchmarks/results/planning/speed.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from jepa_edge.bench.machine import load, machine
from jepa_edge.bundle import Graph
from jepa_edge.export.trace import onnx_from
from jepa_edge.model.config import ActionConfig, ModelConfig
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.jepa import JEPA
from jepa_edge.model.presets import preset
from jepa_edge.quantize.compile import hint_for, quantized, read_graph, save_graph
from jepa_edge.quantize.recipe import recipe_for
from jepa_edge.runtimes.engine_openvino import OpenVinoEngine
from jepa_edge.train.learner import has_bf16

CANDIDATES, HORIZON, HISTORY, LATENT, ACTION = 300, 5, 3, 192, 4
THREADS = 2
BF16 = has_bf16("cpu")  # emulated, one bf16 iteration of LeWM takes half a minute
PRECISIONS = ("fp32", "bf16", "int8") if BF16 else ("fp32", "int8")


def lewm() -> nn.Module:
    """LeWM's predictor and action encoder at their published size, random weights, eval mode."""
    files = importlib.metadata.files("stable-worldmodel") or []
    parts: dict[str, Any] = {}
    for name in ("module", "lewm"):
        found = next(file for file in files if str(file).endswith(f"wm/lewm/{name}.py"))
        spec = importlib.util.spec_from_file_location(f"lewm_{name}", found.locate())
        assert spec is not None
        assert spec.loader is not None
        parts[name] = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = parts[name]  # torch.compile looks there for its globals
        spec.loader.exec_module(parts[name])
    module = parts["module"]
    predictor = module.Predictor(
        num_frames=HISTORY,
        depth=6,
        heads=16,
        mlp_dim=2048,
        input_dim=LATENT,
        hidden_dim=LATENT,
        dim_head=64,
    )
    for layer in predictor.modules():  # AdaLN-zero is the identity until it is trained
        if isinstance(layer, module.ConditionalBlock):
            nn.init.normal_(layer.adaLN_modulation[-1].weight, std=0.02)
    return (
        parts["lewm"]
        .LeWM(
            encoder=nn.Identity(),
            predictor=predictor,
            action_encoder=module.Embedder(input_dim=ACTION, emb_dim=LATENT),
            pred_proj=module.MLP(LATENT, 2048, LATENT, norm_fn=nn.BatchNorm1d),
        )
        .eval()
    )


class LewmPlan(nn.Module):
    """LeWM's own rollout and cost of K candidates, from cached latents of what was seen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, history: torch.Tensor, actions: torch.Tensor, goal: torch.Tensor
    ) -> torch.Tensor:
        """`history [1, H, D]`, `actions [K, H+J-1, A]`, `goal [1, 1, 1, D]` → costs `[1, K]`."""
        count = actions.shape[0]
        pixels = history.new_zeros(1, 1, HISTORY, 1)
        info = {"pixels": pixels, "emb": history[:, None].expand(1, count, -1, -1)}
        info = self.model.rollout(info, actions[None])
        costs: torch.Tensor = self.model.criterion(info | {"goal_emb": goal})
        return costs


def ours(spec: ModelConfig, folder: Path) -> dict[str, Callable[[], object]]:
    """One iteration of each precision: the exported rollout, and the cost of its candidates.

    int8 is the rollout itself in int8, as no recipe ships it: they leave it in floating point,
    because a planner chooses by it.
    """
    torch.manual_seed(0)
    source = next(found for found in graphs_of(JEPA(spec).eval()) if found.name == "rollout")
    graph = read_graph("openvino", onnx_from(source))
    assert spec.action is not None
    random = np.random.default_rng(0)
    past = 1, spec.action.history, spec.pooled_dim
    feeds = [
        {
            "history": random.standard_normal(past).astype(np.float32),
            "actions": random.uniform(-1, 1, (CANDIDATES, HORIZON, ACTION)).astype(np.float32),
        }
        for _ in range(8)
    ]
    goal = random.standard_normal(spec.pooled_dim).astype(np.float32)
    found: dict[str, Callable[[], object]] = {}
    for precision in PRECISIONS:
        recipe = recipe_for(precision, "openvino")
        stem = folder / f"{spec.name}-{precision}"
        file = save_graph("openvino", quantized("openvino", graph, recipe, feeds), recipe, stem)
        facts = Graph(path=file.name, inputs=source.inputs, outputs=source.outputs)
        engine = OpenVinoEngine(file, facts, hint_for("openvino", recipe), THREADS)
        found[f"{spec.name} {precision}"] = lambda engine=engine: np.argsort(
            np.linalg.norm(engine.run(feeds[0])["rollout"][:, -1] - goal, axis=1)
        )
    return found


def theirs(*, compiled: bool) -> dict[str, Callable[[], object]]:
    """One iteration of LeWM in PyTorch, fp32 and bf16, eager and compiled."""
    torch.manual_seed(0)
    model = LewmPlan(lewm())
    history = torch.randn(1, HISTORY, LATENT)
    actions = torch.randn(CANDIDATES, HISTORY + HORIZON - 1, ACTION)
    goal = torch.randn(1, 1, 1, LATENT)
    ways: dict[str, nn.Module] = {"eager": model}
    if compiled:
        ways["compiled"] = torch.compile(model, dynamic=False)

    def call(way: nn.Module, half: bool) -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return way(history, actions, goal).argsort()

    return {
        f"LeWM torch {name} {precision}": lambda way=way, half=half: call(way, half)
        for name, way in ways.items()
        for precision, half in (("fp32", False), ("bf16", True))
        if BF16 or not half
    }


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """One contender's iteration, in milliseconds."""

    name: str
    median_ms: float
    iqr_ms: float
    p99_ms: float


def measure(contenders: dict[str, Callable[[], object]], rounds: int) -> list[Timed]:
    """Every contender once a round, in turns; the first two rounds warm up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 2):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()
            if turn >= 2:
                times[name].append(1e3 * (time.perf_counter() - began))
    return [
        Timed(
            name=name,
            median_ms=round(float(np.median(ms)), 3),
            iqr_ms=round(float(np.subtract(*np.percentile(ms, (75, 25)))), 3),
            p99_ms=round(float(np.percentile(ms, 99)), 3),
        )
        for name, ms in times.items()
    ]


def ratios(timed: list[Timed]) -> dict[str, float]:
    """Of LeWM's faster way to ours: the same precision class, and int8 to its fp32."""
    took = {entry.name: entry.median_ms for entry in timed}
    found = {}
    for size in ("pilot", "same-size"):
        for precision in PRECISIONS:
            rival = "bf16" if precision == "bf16" else "fp32"
            fastest = min(ms for n, ms in took.items() if n.startswith("LeWM") and rival in n)
            found[f"{size} {precision} against LeWM {rival}"] = round(
                fastest / took[f"{size} {precision}"], 2
            )
    return found


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(THREADS)
    before = load()
    pilot = preset("pilot")
    assert pilot.action is not None
    small = msgspec.structs.replace(
        pilot, action=msgspec.structs.replace(pilot.action, candidates=CANDIDATES, horizon=HORIZON)
    )
    large = msgspec.structs.replace(
        pilot,
        name="same-size",
        pooled_dim=LATENT,
        action=ActionConfig(
            dim=384, depth=6, heads=6, history=HISTORY, horizon=HORIZON, candidates=CANDIDATES
        ),
    )
    with tempfile.TemporaryDirectory() as name:
        contenders = theirs(compiled=not asked.no_compile)
        for spec in (small, large):
            contenders |= ours(spec, Path(name))
        timed = measure(contenders, asked.rounds)
    weights = sum(p.numel() for p in lewm().parameters())
    action = JEPA(large).action_predictor
    assert action is not None
    result = {
        "candidates": CANDIDATES,
        "horizon": HORIZON,
        "history": HISTORY,
        "threads": THREADS,
        "rounds": asked.rounds,
        "machine": msgspec.to_builtins(machine(THREADS, before)),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "openvino", "stable-worldmodel")
        },
        "lewm_parameters": weights,
        "same_size_parameters": sum(p.numel() for p in action.parameters()),
        "iterations": msgspec.to_builtins(timed),
        "times_faster": ratios(timed),
    }
    text = msgspec.json.format(msgspec.json.encode(result), indent=1).decode()
    print(text)  # noqa: T201
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
