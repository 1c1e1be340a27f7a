# Each target makes .venv if it is missing and installs what it needs; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
APP := .venv-app
FAST := tests/loss tests/data tests/models/test_registry.py tests/models/test_weight.py \
	tests/training/test_config.py tests/training/test_settings.py tests/test_errors.py
PYPI_LIMIT := 100000000

.PHONY: help demo test-fast test test-slow test-oldest app-test quality style site notebooks dist clean

help:
	@echo "make demo         train with and without SSIA on real images, publish, load again (2-4 minutes)"
	@echo "make test-fast    test losses, settings, registry and data (under 2 minutes on 2 cores)"
	@echo "make test         run every test but the slow ones (some 15 minutes on 2 cores)"
	@echo "make test-slow    run the slow tests: every timm family, and what takes minutes"
	@echo "make test-oldest  run the fast tests with the oldest versions that setup.cfg allows"
	@echo "make app-test     run the tests of the page in the browser (Gradio, Playwright, Chromium)"
	@echo "make quality      check lint, format, types, the direction of imports, repeated code and the website's links"
	@echo "make site         show the documentation as a website, at http://127.0.0.1:8000"
	@echo "make notebooks    run the notebooks of docs/ and store their outputs"
	@echo "make style        fix lint and format"
	@echo "make dist         build and check the sdist and the wheel"

# The stamps installed and installed-test are older than setup.cfg when the dependencies changed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing into $(VENV) (PyTorch is large: minutes, some 6 GB)"
	$(BIN)/python -m pip install --quiet --editable ".[plots]"
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test,dev]"
	@touch $@

demo: $(VENV)/installed
	$(BIN)/ssia-zoo demo

test-fast: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(FAST)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

# uv finds the lowest versions; UV_INDEX_URL and UV_FIND_LINKS name another index, as pip's own variables do for pip.
test-oldest: $(VENV)/installed-test
	test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(BIN)/uv pip install --quiet --python $(OLDEST) --resolution lowest-direct --editable ".[test]"
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile $(FAST)

# Gradio 6 needs Pillow below 13, the other tests run with the newest one.
app-test:
	test -x $(APP)/bin/python || $(PYTHON) -m venv $(APP)
	$(APP)/bin/python -m pip install --quiet --editable ".[app,app-test,test]"
	command -v chromium >/dev/null || $(APP)/bin/python -m playwright install chromium
	$(APP)/bin/python -m pytest tests/app tests/cli/test_app.py

quality: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/pylint --recursive=y ssia_zoo benchmarks export train_hf.py tests
	$(BIN)/hadolint Dockerfile
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

style: $(VENV)/installed-test
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

site: $(VENV)/installed-test
	$(BIN)/mkdocs serve

notebooks: $(VENV)/installed-test
	$(BIN)/python -m tests.helpers.notebooks

# The wheel is built from the sdist.
dist: $(VENV)/installed-test
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	@for file in dist/*; do \
		size=$$(wc -c < $$file); echo "$$file: $$((size / 1000000)) MB"; \
		test $$size -le $(PYPI_LIMIT) || { echo "error: PyPI takes files of up to 100 MB"; exit 1; }; \
	done

clean:
	rm -rf $(VENV) $(OLDEST) $(APP) build dist *.egg-info
