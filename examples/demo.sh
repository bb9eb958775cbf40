#!/usr/bin/env bash
# The whole path on this machine: export the shipped models, run one on real footage, record a few
# episodes of both simulated robots, measure every precision, and let int8 fly the drone. `make demo`
# calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bundle=dist/nano-x86-cpu.jepa
pilot=dist/forest-x86-cpu.jepa
clip=jepa_edge/assets/clips/movie-hello.mp4
episodes=${EPISODES:-20}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

sources=$(find jepa_edge export quantize -type f \
  \( -name '*.py' -o -name '*.toml' -o -name '*.safetensors' -o -name '*.mp4' \) -print0 |
  sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)

exported() { # MODEL PRECISIONS BUNDLE: unless it was made from the same sources
  local stamp=$3.made-from
  if [ -f "$3/manifest.json" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sources" ]; then
    echo "$3 is up to date"
    return
  fi
  jepa-edge export --model "$1" --target x86-cpu --precision "$2" --out "$3"
  echo "$sources" >"$stamp"
}

say "1/5 export builtin:nano to x86-cpu: fp32, fp16, bf16, int8"
exported builtin:nano fp32,fp16,bf16,int8 "$bundle"

say "2/5 run the int8 graphs on $clip"
mkdir -p out
jepa-edge run --bundle "$bundle" --camera "$clip" --precision int8 --fast --steps 40 \
  --controller file:out/run.jsonl
sed -n '1p;9,10p' out/run.jsonl | cut -c1-300
echo "(all of it: out/run.jsonl)"

say "3/5 record $episodes held-out episodes of each simulated robot"
probe=()
if jepa-edge record --world forest --episodes "$episodes" --seed 900 --out data/demo-forest &&
  jepa-edge record --world reach --episodes "$episodes" --seed 900 --out data/demo-reach; then
  probe=(--probe-data data/demo-forest,data/demo-reach)
else
  echo "skipped: the simulated robots cannot render here; the bench goes on without them"
fi

say "4/5 measure"
jepa-edge bench --bundle "$bundle" "${probe[@]}" --report out/bench

say "5/5 the int8 drone looks, predicts and flies to what it was shown"
if [ "${#probe[@]}" -gt 0 ]; then
  exported builtin:forest fp32 "$pilot"
  rm -rf "${pilot%.jepa}-int8.jepa"
  jepa-edge quantize --bundle "$pilot" --precision int8 --recipe examples/int8-pilot.toml \
    --out "${pilot%.jepa}-int8.jepa"
  # a scene in which it arrives; it does in nineteen of twenty (docs/closed-loop.md)
  jepa-edge evaluate --bundle "${pilot%.jepa}-int8.jepa" --precision int8 --world forest \
    --level glade --seed 100002 --episodes 1 --steps 60 --film out/forest.gif
  echo "film: out/forest.gif (the camera, and predicted beside actual latents)"
fi
echo "report: out/bench/bench.html"
