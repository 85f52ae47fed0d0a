# `make demo`, `make test` and `make test-all` need python3.11 or newer with venv, and nothing else that is installed.
# Another interpreter or another build of torch: make test PYTHON=python3.12 TORCH='torch==2.13.0 --index-url ...'

# Each process of the tests would compile the package again where its compiled files are not kept.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := .venv/bin
TESTS = $(BIN)/python -m pytest -rs --numprocesses 2 --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALLED := .venv/installed

.PHONY: demo test test-all check fix clean

demo: $(INSTALLED)
	$(BIN)/longrope extend

test: $(INSTALLED)
	$(TESTS) -m 'not slow'

test-all: $(INSTALLED)
	$(TESTS) --durations=25

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so a broken install is done again. Torch comes first: left to itself, pip would choose a
# build with gigabytes of CUDA.
$(INSTALLED): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(PIP) $(TORCH)
	$(PIP) --editable '.[dev]'
	@touch $@
