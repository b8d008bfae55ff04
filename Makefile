# collegium: every command a newcomer or a maintainer needs. `make` alone lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# A process for each core of a small machine, with whole files: what a file prepares is prepared once.
PYTEST_ARGS ?= -n 2 --dist $(DISTRIBUTION)
DISTRIBUTION := loadfile
PYTEST = $(BIN)/python -m pytest $(PYTEST_ARGS)
# Few and long tests: who is done takes over what the other has not begun.
test-slow: DISTRIBUTION := worksteal

.PHONY: help install dev demo test test-slow gpu check serve bench format clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "collegium needs Python 3.11 or later; name one with: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (on Debian: apt install python3-venv)"; exit 1; }
	@touch $@

# torch first and pinned, so that the build at hand is taken; then everything else beside it.
$(VENV)/.runtime: $(VENV)/.python pyproject.toml setup.py constraints.txt $(wildcard train/majority/native/*.[ch])
	@echo "installing collegium into $(VENV) …"
	@$(PIP) install -c constraints.txt torch
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "installing the development tools into $(VENV) …"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.runtime  ## create the environment and install collegium into it

dev: $(VENV)/.dev  ## the same with the development tools

demo: $(VENV)/.runtime  ## search ResNet-50 and two MLPs, train on digits, download and evaluate, all over HTTP
	@$(BIN)/python -m collegium.app.cli.demo

test: $(VENV)/.dev  ## run the fast tests, with a real PostgreSQL and a real Redis
	@$(PYTEST) -m "not slow"

test-slow: $(VENV)/.dev  ## run the others: whole services, several processes, compilers, exports
	@$(PYTEST) -m slow

gpu: $(VENV)/.dev  ## tests and measurements on an accelerator, in eight minutes at most
	@$(BIN)/python benchmarks/gpu.py

check: $(VENV)/.dev  ## lint, format, types and the directions of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python && $(BIN)/lint-imports

serve: $(VENV)/.runtime  ## start the embedded service
	@$(BIN)/collegium serve

bench: $(VENV)/.dev  ## benchmarks: samplers, majority kernels, the service
	@$(BIN)/python benchmarks/samplers.py && $(BIN)/python benchmarks/majority.py && $(BIN)/python benchmarks/service.py

format: $(VENV)/.dev  ## apply the formatter and the linter's safe fixes
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:  ## remove the environment and what tools left behind
	@rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache .import_linter_cache build dist *.egg-info demo
