# `make demo`, `make test` and `make test-all` need python3.11 or newer with venv, and nothing else that is installed.
# Another interpreter or another build of torch: make test PYTHON=python3.12 TORCH='torch==2.13.0 --index-url ...'

# Each process of the tests would compile the package again where its compiled files are not kept.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
export TORCH

BIN := .venv/bin
TESTS = $(BIN)/python -m pytest -rs --numprocesses 2 --dist loadfile --no-loadscope-reorder
INSTALLED := .venv/installed
DEVELOPED := .venv/developed

.PHONY: demo test test-all check fix docs dist lock audit clean

demo: $(INSTALLED)
	$(BIN)/longrope extend

test: $(DEVELOPED)
	$(TESTS) -m 'not slow'

test-all: $(DEVELOPED)
	$(TESTS) --durations=25

check: $(DEVELOPED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(DEVELOPED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

docs: $(DEVELOPED)
	$(BIN)/mkdocs build --quiet
	@echo 'Open build/site/index.html; for the search: $(BIN)/python -m http.server --directory build/site'

dist: $(DEVELOPED)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python scripts/check_dist.py dist

lock:
	bash scripts/lock.sh

# Versions with known vulnerabilities, by the package index. Where that is out of reach, it fails: it cannot tell.
# PYSEC-2026-1939 has no mended version, and what it is in is not used (SECURITY.md).
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3'
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement scripts/lock.txt \
	    --ignore-vuln PYSEC-2026-1939

clean:
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so a broken install is done again. The demo needs the package alone.
$(INSTALLED): pyproject.toml scripts/install.py
	@$(MAKE) --no-print-directory environment
	@$(BIN)/python scripts/install.py
	@touch $@

$(DEVELOPED): pyproject.toml scripts/install.py scripts/lock.txt
	@$(MAKE) --no-print-directory environment
	@$(BIN)/python scripts/install.py --dev
	@touch $(INSTALLED) $@

.PHONY: environment
environment:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv is missing. On Debian or Ubuntu: sudo apt install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
