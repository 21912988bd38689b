# Everything runs inside .venv, which the first target that needs it creates and fills.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest
FAST_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile -m "not slow"
# Two, not as many as cores: each starts Rays that claim all of them, and one alone left 28 % of two cores idle.
SLOW_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile tests
FAULT_TESTS := EKD_FAULT_MATRIX=1 $(BIN)/python -m pytest -v tests/cluster

.DEFAULT_GOAL := help
MINUTES ?= 10
MEAN_S ?= 30

.PHONY: help demo fashion-mnist test test-all test-oldest test-compat faults faults-ci soak attack fuzz check format docs bench gpu clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

# Without PYTHONWARNINGS, setuptools ends a newcomer's first command with a banner about editable installs.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/ekd schema > orchestrator/experiments/experiment.schema.json
	touch $(STAMP)

demo: $(STAMP)  ## set-up, and the whole main job on data that needs no download
	$(BIN)/ekd run digits

fashion-mnist: $(STAMP)  ## put Fashion-MNIST into data/: from Debian's package, or downloaded
	$(BIN)/python -m ekd_train.data.prepare fashion_mnist --root data

test: $(STAMP)  ## set-up, fast tests and slow ones: a quarter of an hour
	$(FAST_TESTS)
	$(SLOW_TESTS) -m "slow and not by_hand"

$(OLDEST)/.installed: pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt --editable '.[dev]'
	touch $@

test-oldest: $(OLDEST)/.installed  ## the fast tests with the oldest dependencies that are allowed
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -q --numprocesses auto --dist loadfile -m "not slow"

test-all: test  ## and those that install packages, or are of the study's own searches
	$(SLOW_TESTS) -m by_hand

test-compat: $(STAMP)  ## a small run at COMPAT_REF (else the last tag) and at HEAD: the same bits?
	$(BIN)/python tests/compat/two_commits.py

faults: $(STAMP)  ## a cluster of network namespaces, broken in every way; root, half an hour; writes docs/faults.md
	EKD_FAULTS=all EKD_FAULTS_PAGE=docs/faults.md $(FAULT_TESTS)

faults-ci: $(STAMP)  ## the seven faults of every CI run, and three others, chosen by the commit's hash
	EKD_FAULTS=core+3 $(FAULT_TESTS)

soak: $(STAMP)  ## runs with faults at random for MINUTES (10), MEAN_S (30) apart, from SEED; root; writes docs/soak.md
	$(BIN)/python tests/cluster/soak.py --minutes $(MINUTES) --mean-s $(MEAN_S) $(if $(SEED),--seed $(SEED)) --page docs/soak.md

attack: $(STAMP)  ## what others may do to a user: links, archives, documents, images, text; a minute or two
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m attack tests

fuzz: $(STAMP)  ## the parsers of what others wrote against arbitrary input, for MINUTES (10)
	end=$$(($$(date +%s) + 60 * $(MINUTES))); while [ $$(date +%s) -lt $$end ]; do \
	    EKD_FUZZ_EXAMPLES=1000 $(BIN)/python -m pytest -q -m "attack and hypothesis" tests/attack || exit 1; done

check: $(STAMP)  ## format, lint, types, import rules, fast tests: two and a half minutes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(FAST_TESTS)

format: $(STAMP)  ## put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## the pages, as a site in build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: $(STAMP)  ## the benchmarks, printing ratios
	$(BIN)/python -m benchmarks

gpu: $(STAMP)  ## check and time training on a GPU, in eight minutes; writes docs/gpu.md
	$(BIN)/python -m benchmarks.gpu

clean:  ## remove the environment and what was built
	rm -rf $(VENV) $(OLDEST) build *.egg-info
