# `make` lists the targets. Everything runs in .venv, which `make venv` builds once.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= $(shell nproc)
PYTHON ?= $(firstword $(foreach name,python3.11 python3,$(shell command -v $(name) 2>/dev/null)))
export MUJOCO_GL ?= egl
export OPENVINO_TELEMETRY_OPT_OUT := 1

.PHONY: help venv demo test test-slow check format tables clean
help:
	@echo "make demo       export, run and measure the shipped model; ends with a report"
	@echo "make test       lint, types, layers and the quick tests"
	@echo "make test-slow  the tests that take more than ten seconds"
	@echo "make check      lint, types and layers only"
	@echo "make tables     write the measured numbers into README.md and docs/"

venv: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	@bash .ci/venv $(VENV) "$(PYTHON)"
	@touch $@

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests of what happens in time, and of whole machines, have the processor to themselves.
ALONE := tests/runtimes tests/cloud tests/devices
TOGETHER := tests $(addprefix --ignore=,$(ALONE))
TESTS = $(BIN)/pytest -m "$(1) and not device"

test: check
	$(call TESTS,not slow) -n $(JOBS) --dist loadfile $(TOGETHER)
	$(call TESTS,not slow) $(ALONE)

test-slow: $(STAMP)
	$(call TESTS,slow) -n $(JOBS) --dist loadfile $(TOGETHER)
	$(call TESTS,slow) $(ALONE)

format: $(STAMP)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

tables: $(STAMP)
	@for writer in benchmarks/*_tables.py; do $(BIN)/python $$writer; done

clean:
	rm -rf build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
