#!/usr/bin/env bash
# The whole path on this machine: export the shipped model, run it on real footage, record a few
# episodes of both simulated robots, and measure every precision. `make demo` calls it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bundle=dist/nano-x86-cpu.jepa
stamp=dist/.nano-x86-cpu.made-from
clip=jepa_edge/assets/clips/movie-hello.mp4
episodes=${EPISODES:-20}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

say "1/4 export builtin:nano to x86-cpu: fp32, fp16, bf16, int8"
sources=$(find jepa_edge export quantize -type f \
  \( -name '*.py' -o -name '*.toml' -o -name '*.safetensors' -o -name '*.mp4' \) -print0 |
  sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
if [ -f "$bundle/manifest.json" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sources" ]; then
  echo "$bundle is up to date"
else
  jepa-edge export --model builtin:nano --target x86-cpu --precision fp32,fp16,bf16,int8 \
    --out "$bundle"
  echo "$sources" >"$stamp"
fi

say "2/4 run the int8 graphs on $clip"
mkdir -p out
jepa-edge run --bundle "$bundle" --camera "$clip" --precision int8 --fast --steps 40 \
  --controller file:out/run.jsonl
sed -n '1p;9,10p' out/run.jsonl | cut -c1-300
echo "(all of it: out/run.jsonl)"

say "3/4 record $episodes held-out episodes of each simulated robot"
probe=()
if jepa-edge record --world forest --episodes "$episodes" --seed 900 --out data/demo-forest &&
  jepa-edge record --world reach --episodes "$episodes" --seed 900 --out data/demo-reach; then
  probe=(--probe-data data/demo-forest,data/demo-reach)
else
  echo "skipped: the simulated robots cannot render here; the bench goes on without them"
fi

say "4/4 measure"
jepa-edge bench --bundle "$bundle" "${probe[@]}" --report out/bench
echo "report: out/bench/bench.html"
