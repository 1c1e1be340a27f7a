# Each target makes .venv if it is missing and installs what it needs; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow quality style clean

help:
	@echo "make demo       train with SSIA and without on real images, publish, load again (2-4 minutes)"
	@echo "make test       run the quick tests; make test-slow runs the rest"
	@echo "make quality    check lint, format and types; make style mends lint and format"

# The stamps installed and installed-test are older than setup.cfg when the dependencies changed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (PyTorch is large: minutes, some 6 GB)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	@touch $@

demo: $(VENV)/installed
	$(BIN)/ssia-zoo demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

quality: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

style: $(VENV)/installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info
