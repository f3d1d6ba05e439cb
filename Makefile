# make distill: the environment, then the main job. make test: the environment, then the tests.
# VENV=<folder> puts the environment elsewhere, PYTHON=python3.12 makes it from another Python.
PYTHON ?= python3
RECIPE ?= wavlm+whisper
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: distill test test-all style bench study clean

distill: $(VENV)/installed
	$(BIN)/accelerate launch --quiet distill.py recipe=$(RECIPE) $(ARGS)

test: $(VENV)/installed
	$(BIN)/python -m pytest $(ARGS)

test-all: $(VENV)/installed
	$(BIN)/python -m pytest -m "" $(ARGS)

style: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.throughput recipe=$(RECIPE) $(ARGS)

study: $(VENV)/installed
	$(BIN)/python -m benchmarks.study $(ARGS)

# the stamp is made last, so that an interrupted installation is repeated
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=<one>")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
