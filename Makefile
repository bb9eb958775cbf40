# make demo: train once (shipped), export, quantize, run on real footage, compare.
# make test: the gates and the tests. Both make the environment when it is missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := dist/nano-x86-cpu.jepa
CLIP := jepa_edge/assets/clips/movie-hello.mp4

export PYTHONHASHSEED := 0
export OPENVINO_TELEMETRY_OPT_OUT := 1

.PHONY: demo test check slow venv opengl clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy python3-venv && $(PYTHON) -m venv $(VENV); }
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt "torch" "setuptools"
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@touch $(STAMP)

# Software OpenGL, which the simulated robots render with.
opengl:
	@ldconfig -p | grep -q libEGL.so.1 && ls /usr/lib/*/dri/swrast_dri.so >/dev/null 2>&1 || \
	{ [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy libegl1 libgl1-mesa-dri; } || \
	  echo "No software OpenGL: as root, apt-get install libegl1 libgl1-mesa-dri (the simulated robots need it)"

demo: venv opengl
	@test -f $(DEMO)/manifest.json || $(BIN)/jepa-edge export --target x86-cpu --out $(DEMO)
	$(BIN)/jepa-edge run --bundle $(DEMO) --camera $(CLIP) --fast --steps 12 --controller file:dist/demo.jsonl
	@tail -n 1 dist/demo.jsonl | cut -c 1-160
	$(BIN)/jepa-edge record --world forest --episodes 12 --seed 900 --out data/demo-forest
	$(BIN)/jepa-edge record --world reach --episodes 12 --seed 900 --out data/demo-reach
	$(BIN)/jepa-edge bench --bundle $(DEMO) --probe-data data/demo-forest,data/demo-reach --report out/demo

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: venv opengl check
	$(BIN)/pytest -m "not slow"

slow: venv opengl
	$(BIN)/pytest -m slow

clean:
	rm -rf dist out build runs data/demo-*
