"""How long a clip takes to encode: this project against the other ways, on the same weights.

    python benchmarks/vjepa2_latency.py --size small,base --pixels 224,256 --prepare  # once
    python benchmarks/vjepa2_latency.py --size small,base --pixels 224,256 --rounds 10
    python benchmarks/vjepa2_tables.py     # writes the tables of docs/bring-your-own-vjepa2.md

Random weights (no download): time does not depend on them. Single calls of every way are timed in
turns, so that a busy machine hits them alike, half of them with everything loaded in the opposite
order; wall and processor time are both kept, and the ratios are of the medians. The floor is the
model's products at the best rate that a matrix product reaches here in that precision, in the same
run: exponentials and norms are not in it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENVINO_TELEMETRY_OPT_OUT", "1")

import numpy as np
import torch
from transformers import VJEPA2Config, VJEPA2Model

from jepa_edge.bench.machine import load, machine
from jepa_edge.export.trace import write_onnx
from jepa_edge.media.clips import clips_from
from jepa_edge.model.checkpoint import load_checkpoint
from jepa_edge.model.graphs import graphs_of
from jepa_edge.model.vjepa.config import ClipShape
from jepa_edge.quantize.compile import read_graph, write_graph

SIZES = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
}
FRAMES = 16
RESULTS = Path(__file__).parent / "results" / "vjepa2"
Run = Callable[[], Any]
Way = Callable[[], Run]


class PlainEncoder(torch.nn.Module):
    """What a person exports: the encoder of `transformers`, as it is."""

    def __init__(self, model: VJEPA2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        """`[1, T, 3, H, W]` → latents `[1, N, D]`."""
        return self.model(video, skip_predictor=True).last_hidden_state


def prepare(size: str, pixels: int, folder: Path) -> None:
    """Builds whatever is not in `folder` yet."""
    import nncf
    import openvino as ov

    nncf.set_log_level(logging.ERROR)
    if not (folder / "hf").is_dir():
        torch.manual_seed(0)
        config = VJEPA2Config(crop_size=pixels, frames_per_clip=FRAMES, **SIZES[size])
        VJEPA2Model(config).eval().save_pretrained(folder / "hf")
    checkpoint = load_checkpoint(str(folder / "hf"), ClipShape(frames=FRAMES))
    senses = checkpoint.model.config.senses
    if not (folder / "ours.onnx").is_file():
        write_onnx(graphs_of(checkpoint.model)[0], folder / "ours.onnx", half=False)
    if not (folder / "plain.onnx").is_file():
        plain = PlainEncoder(VJEPA2Model.from_pretrained(folder / "hf").eval())
        example = torch.zeros(1, FRAMES, 3, pixels, pixels)
        program = torch.onnx.export(plain, (example,), dynamo=True, input_names=["video"])
        assert program is not None
        program.save(str(folder / "plain.onnx"))
    if not (folder / "plain-traced.onnx").is_file():
        _trace_plain(folder, pixels)
    clips = clips_from("builtin:calibration", senses, steps=FRAMES // 2, limit=8, mirror=True)
    real = [clip.video[None] for clip in clips if clip.video is not None]
    if not (folder / "ours-int8.xml").is_file():
        samples = [{"video": video} for video in real]
        graph = read_graph("openvino", folder / "ours.onnx")
        write_graph("openvino", graph, "int8", samples, folder / "ours-int8")
    if not (folder / "plain-int8.xml").is_file():
        data = nncf.Dataset([{"video": video.transpose(0, 2, 1, 3, 4)} for video in real])
        quantized = nncf.quantize(
            ov.Core().read_model(str(folder / "plain.onnx")),
            data,
            subset_size=len(real),
            model_type=nncf.ModelType.TRANSFORMER,
        )
        ov.save_model(quantized, str(folder / "plain-int8.xml"))


def _trace_plain(folder: Path, pixels: int) -> None:
    """The plain export by torch's older exporter, which was the default up to 2.8."""
    plain = PlainEncoder(VJEPA2Model.from_pretrained(folder / "hf").eval())
    part = folder / "plain-traced.part"
    with torch.no_grad():
        torch.onnx.export(
            plain,
            (torch.zeros(1, FRAMES, 3, pixels, pixels),),
            str(part),
            dynamo=False,
            opset_version=18,
            input_names=["video"],
        )
    part.rename(folder / "plain-traced.onnx")


def ways(pixels: int, folder: Path, *, compiled: bool) -> dict[str, Way]:
    """How to load every way to encode the same random clip; arrays in, arrays out."""
    random = np.random.default_rng(0)
    theirs = random.standard_normal((1, FRAMES, 3, pixels, pixels)).astype(np.float32)
    ours = np.ascontiguousarray(theirs.transpose(0, 2, 1, 3, 4))
    model = VJEPA2Model.from_pretrained(folder / "hf").eval()
    tensor = torch.from_numpy(theirs)
    encoder = PlainEncoder(model)
    made = {"transformers eager fp32": partial(_torch, encoder, tensor)}
    if compiled:
        made["transformers torch.compile fp32"] = partial(_torch, torch.compile(encoder), tensor)
    made |= _saccadic(model, tensor, pixels)
    for name, part, clip in (
        ("plain", "plain", theirs),
        ("plain traced", "plain-traced", theirs),
        ("jepa-edge", "ours", ours),
    ):
        made[f"{name} ONNX Runtime fp32"] = partial(_onnxruntime, folder / f"{part}.onnx", clip)
    graphs = (("plain", "plain", theirs, None), ("jepa-edge", "ours", ours, "bf16"))
    for name, part, clip, int8_hint in graphs:
        for hint, precision in (("f32", "fp32"), ("bf16", "bf16")):
            file = folder / f"{part}.onnx"
            made[f"{name} OpenVINO {precision}"] = partial(_openvino, file, clip, hint)
        file = folder / f"{part}-int8.xml"
        made[f"{name} OpenVINO int8"] = partial(_openvino, file, clip, int8_hint)
    return made


def _torch(module: Callable[[torch.Tensor], torch.Tensor], clip: torch.Tensor) -> Run:
    return lambda: module(clip).numpy()


def _saccadic(model: VJEPA2Model, clip: torch.Tensor, pixels: int) -> dict[str, Way]:
    """The encoder of saccadic around the same weights; it runs the predictor too."""
    try:
        from saccade.config import CheckpointSpec, ModelConfig
        from saccade.model import FrozenEncoder
    except ImportError:
        return {}
    width = model.config.hidden_size
    spec = CheckpointSpec("x", "", 0.0, FRAMES, pixels, width)
    config = ModelConfig(frames=FRAMES, resolution=pixels, device="cpu", dtype="float32")
    frozen = FrozenEncoder(model, spec, config).eval()
    return {"saccadic fp32 (with predictor)": partial(_torch, frozen._run_backbone, clip)}


def _onnxruntime(file: Path, clip: Any) -> Run:  # noqa: ANN401
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: clip})[0]


def _openvino(file: Path, clip: Any, hint: str | None) -> Run:  # noqa: ANN401
    import openvino as ov

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if hint:
        options["INFERENCE_PRECISION_HINT"] = hint
    if torch.get_num_threads() == 1:
        options["INFERENCE_NUM_THREADS"] = 1
    compiled = ov.Core().compile_model(str(file), "CPU", options)
    request = compiled.create_infer_request()
    return lambda: request.infer({0: clip})[0]


def flops(size: str, pixels: int) -> float:
    """Of the encoder's matrix products: patches, projections, MLPs, both products of attention."""
    spec = SIZES[size]
    dim, depth = spec["hidden_size"], spec["num_hidden_layers"]
    tokens = (FRAMES // 2) * (pixels // 16) ** 2
    per_layer = 2 * tokens * dim * 12 * dim + 4 * tokens * tokens * dim
    return float(2 * tokens * 1536 * dim + depth * per_layer)


def processor_flags() -> set[str]:
    """What this processor can do, as Linux calls it; nothing elsewhere."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    flags = next((line for line in lines if line.startswith("flags")), "")
    return set(flags.split())


def products(size: str, pixels: int) -> dict[str, Run]:
    """Matrix products whose best rate is the floor: the model's largest, and a square one."""
    dim = SIZES[size]["hidden_size"]
    tokens = (FRAMES // 2) * (pixels // 16) ** 2
    runs: dict[str, Run] = {}
    kinds = {"fp32": torch.float32}
    if "avx512_bf16" in processor_flags():
        kinds["bf16"] = torch.bfloat16  # elsewhere torch multiplies bf16 number by number
    for name, kind in kinds.items():
        for rows, inner, columns in ((tokens, dim, 4 * dim), (2048, 2048, 2048)):
            a, b = torch.randn(rows, inner).to(kind), torch.randn(inner, columns).to(kind)
            runs[f"{name} {rows}x{inner}x{columns}"] = lambda a=a, b=b: a @ b
    return runs


Times = dict[str, list[tuple[float, float]]]


def measure(
    made: dict[str, Way], gemm: dict[str, Run], rounds: int
) -> tuple[Times, dict[str, float]]:
    """Wall and processor milliseconds of single calls, and each way's distance from `transformers`.

    What is loaded later lies in worse memory and is some percent slower, whichever it is: so all
    is loaded again for the second half of the rounds, in the opposite order.
    """
    times: Times = {name: [] for name in (*made, *gemm)}
    off = _turns(made, gemm, rounds - rounds // 2, times)
    if rounds > 1:
        _turns(dict(reversed(made.items())), gemm, rounds // 2, times)
    return times, off


@torch.no_grad()
def _turns(
    made: dict[str, Way], gemm: dict[str, Run], rounds: int, times: Times
) -> dict[str, float]:
    """Loads all, runs each once to compare and to warm up, then in turns."""
    runs = {name: make() for name, make in made.items()}
    off = difference(runs)
    for _ in range(rounds):
        for name, run in (runs | gemm).items():
            wall, used = time.perf_counter(), time.process_time()
            run()
            ended = time.perf_counter() - wall, time.process_time() - used
            times[name].append((ended[0] * 1e3, ended[1] * 1e3))
    return off


def summary(times: list[tuple[float, float]]) -> dict[str, float]:
    """Median and quartiles of the wall, median of the processor time, in ms."""
    wall, used = np.array(times).T
    p25, p50, p75 = np.percentile(wall, (25, 50, 75))
    return {
        "wall_ms_p25": round(float(p25), 2),
        "wall_ms_p50": round(float(p50), 2),
        "wall_ms_p75": round(float(p75), 2),
        "wall_ms_min": round(float(wall.min()), 2),
        "cpu_ms_p50": round(float(np.median(used)), 2),
    }


def difference(runs: dict[str, Run]) -> dict[str, float]:
    """Relative L2 of every way's latents to eager `transformers`."""
    outputs = {name: np.asarray(run(), np.float32) for name, run in runs.items()}
    reference = outputs["transformers eager fp32"]
    norm = float(np.linalg.norm(reference))
    return {name: float(np.linalg.norm(out - reference)) / norm for name, out in outputs.items()}


def report(size: str, pixels: int, rounds: int, folder: Path, *, compiled: bool) -> dict[str, Any]:
    """Everything that was measured, and the ratios that matter."""
    began = load()
    made, gemm = ways(pixels, folder, compiled=compiled), products(size, pixels)
    times, off = measure(made, gemm, rounds)
    results = {name: summary(times[name]) for name in made}
    for name, error in off.items():
        results[name]["relative_l2"] = round(error, 7)
    rates = {}
    for name in gemm:
        dims = [int(part) for part in name.split()[1].split("x")]
        best = min(used for _, used in times[name]) / torch.get_num_threads()
        rates[name] = round(2 * float(np.prod(dims)) / best / 1e6, 1)
    work = flops(size, pixels)
    floors = {
        kind: round(work / max(r for n, r in rates.items() if n.startswith(kind)) / 1e6, 2)
        for kind in ("fp32", "bf16")
        if any(n.startswith(kind) for n in rates)
    }
    return {
        "suite": "vjepa2_latency",
        "size": size,
        "frames": FRAMES,
        "pixels": pixels,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "flags": sorted(processor_flags() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}),
        "machine": json.loads(_encoded(machine(torch.get_num_threads(), began))),
        "gflop": round(work / 1e9, 1),
        "gemm_gflops": rates,
        "floor_ms": floors,
        "results": results,
        "ratios": ratios(results, floors),
    }


def ratios(results: dict[str, dict[str, float]], floors: dict[str, float]) -> dict[str, float]:
    """How many times as fast, by wall and by processor time; floors by the best call."""
    found: dict[str, float] = {}
    for ours, theirs in (
        ("jepa-edge ONNX Runtime fp32", "plain ONNX Runtime fp32"),
        ("jepa-edge OpenVINO fp32", "plain ONNX Runtime fp32"),
        ("jepa-edge OpenVINO fp32", "plain traced ONNX Runtime fp32"),
        ("jepa-edge OpenVINO fp32", "plain OpenVINO fp32"),
        ("jepa-edge OpenVINO fp32", "transformers eager fp32"),
        ("jepa-edge OpenVINO bf16", "plain OpenVINO bf16"),
        ("jepa-edge OpenVINO bf16", "transformers eager fp32"),
        ("jepa-edge OpenVINO int8", "plain OpenVINO int8"),
        ("jepa-edge OpenVINO int8", "transformers eager fp32"),
    ):
        for kind in ("wall_ms_p50", "wall_ms_min", "cpu_ms_p50"):
            label = f"{ours} vs {theirs} ({kind.removesuffix('_p50')})"
            found[label] = round(results[theirs][kind] / results[ours][kind], 2)
    plain = results["plain ONNX Runtime fp32"]["cpu_ms_p50"] / torch.get_num_threads()
    found["plain ONNX Runtime fp32 vs the fp32 floor"] = round(plain / floors["fp32"], 2)
    for name in floors:
        used = results[f"jepa-edge OpenVINO {name}"]["cpu_ms_p50"]
        best = used / torch.get_num_threads()
        found[f"share of the {name} floor"] = round(floors[name] / best, 3)
    return found


def _encoded(value: Any) -> bytes:  # noqa: ANN401
    import msgspec

    return msgspec.json.encode(value)


def main() -> None:
    """Prepares, measures, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="small", help="small, base, large; commas between")
    parser.add_argument("--pixels", default="224", help="commas between")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--prepare", action="store_true", help="only build the graphs")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="1: processor time is exact under load"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--folder", type=Path, default=Path("out/vjepa2"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(asked.threads)
    for size in asked.size.split(","):
        for pixels in map(int, asked.pixels.split(",")):
            _one(asked, size, pixels)


def _one(asked: argparse.Namespace, size: str, pixels: int) -> None:
    """One model at one picture size."""
    folder = asked.folder / f"{size}-{pixels}"
    folder.mkdir(parents=True, exist_ok=True)
    prepare(size, pixels, folder)
    if asked.prepare:
        return
    found = report(size, pixels, asked.rounds, folder, compiled=not asked.no_compile)
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    kind = "avx512" if "avx512f" in processor_flags() else "avx2"
    (RESULTS / f"latency-{size}-{pixels}-{kind}.json").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
