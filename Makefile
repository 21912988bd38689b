# Everything runs inside .venv, which the first target that needs it creates and fills.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FAST_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile -m "not slow"
# Two, not as many as cores: each starts Rays that claim all of them, and one alone left 28 % of two cores idle.
SLOW_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile -m slow tests

.DEFAULT_GOAL := help
.PHONY: help demo fashion-mnist test faults check format bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# Without PYTHONWARNINGS, setuptools ends a newcomer's first command with a banner about editable installs.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## set-up, and the whole main job on data that needs no download
	$(BIN)/ekd run digits

fashion-mnist: $(STAMP)  ## put Fashion-MNIST into data/: from Debian's package, or downloaded
	$(BIN)/python -m ekd_train.data.prepare fashion_mnist --root data

test: $(STAMP)  ## set-up, and the whole suite
	$(FAST_TESTS)
	$(SLOW_TESTS)

faults: $(STAMP)  ## a cluster of network namespaces, broken in every way; root, three quarters of an hour
	EKD_FAULT_MATRIX=1 $(BIN)/python -m pytest -v tests/cluster

check: $(STAMP)  ## format, lint, types, import rules, fast tests: two and a half minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(FAST_TESTS)

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## the benchmarks, printing ratios
	$(BIN)/python -m benchmarks

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build *.egg-info
