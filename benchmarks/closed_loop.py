"""Closed-loop success of the shipped pilots: bodies, levels, precisions, and their rivals.

    jepa-edge export --model builtin:reach --precision fp32,fp16 --out dist/floats.jepa
    jepa-edge quantize --bundle dist/floats.jepa --precision int8 \
        --recipe examples/int8-pilot.toml --out dist/reach.jepa
    (the others alike; rover with --calibration data/rover-open, the drone in fog with
    --calibration data/drone-glade,data/drone-fog)
    python benchmarks/closed_loop.py --episodes 100 --data data --out benchmarks/results/closed_loop

One JSON for each body and level; a second run goes on where the first stopped. Behaviour cloning
learns from the recordings in the folder of `--data` that is named after the body. To tell
precisions apart takes hundreds of scenes, and no plan cut short because the machine was busy:

    python benchmarks/closed_loop.py --episodes 400 --precisions fp32,fp16,int8 --deadline-ms 0 \
        --suffix=-precisions
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from jepa_edge.bench.closed_loop import ClosedLoop, ClosedLoopConfig, evaluate
from jepa_edge.runtimes.planner import PlannerConfig

SETTINGS = {  # body, level → steps of 0.2 s to arrive in; deaf: also without sound
    "reach-plain": (25, False),
    "reach-varied": (25, False),
    "forest-glade": (60, False),
    "forest-grove": (60, False),
    "forest-forest": (60, False),
    "forest-storm": (60, False),
    "forest-fog": (60, True),
    "rover-open": (60, False),
    "rover-yard": (60, False),
    "rover-slippery": (60, False),
}


def main() -> None:
    """Flies what is asked for and writes one result each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(SETTINGS), help="body-level, commas between")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--deadline-ms", type=float, default=150.0)
    parser.add_argument("--iterations", type=int, default=PlannerConfig().iterations)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="scenes side by side")
    parser.add_argument("--suffix", default="", help="of the results' names")
    parser.add_argument("--bundles", type=Path, default=Path("dist"))
    parser.add_argument("--data", type=Path, help="recordings to clone; without: no cloning")
    parser.add_argument("--work", type=Path, default=Path("out/closed_loop"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/closed_loop"))
    asked = parser.parse_args()
    for name in asked.only.split(","):
        body, level = name.split("-")
        steps, deaf = SETTINGS[name]
        found = evaluate(
            ClosedLoopConfig(
                bundle=asked.bundles / f"{body}.jepa",
                world=body,
                level=level,
                precisions=asked.precisions.split(","),
                episodes=asked.episodes,
                steps=steps,
                deaf=deaf,
                threads=asked.threads,
                workers=asked.workers,
                rivals=asked.data / body if asked.data else None,
                planner=PlannerConfig(
                    deadline_ms=asked.deadline_ms or None, iterations=asked.iterations
                ),
                out=asked.work / f"{name}{asked.suffix}",
            ),
            lambda *_: None,
        )
        asked.out.mkdir(parents=True, exist_ok=True)
        text = msgspec.json.format(msgspec.json.encode(found), indent=1).decode() + "\n"
        (asked.out / f"{name}{asked.suffix}.json").write_text(text)
        print(name, _line(found), flush=True)  # noqa: T201


def _line(found: ClosedLoop) -> str:
    return "  ".join(
        f"{p.pilot} {p.success.share:.0%} [{p.success.low:.0%}, {p.success.high:.0%}]"
        + ("" if p.in_time is None else f" in time {p.in_time:.2%}")
        for p in found.pilots
    )


if __name__ == "__main__":
    main()
