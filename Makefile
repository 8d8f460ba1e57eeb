# Every target does its own set-up in .venv. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
# One torch thread in every worker: threads that wait for each other cost more than they bring.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(or $(WORKERS),auto) --dist loadgroup
FAST := tests/test_layout.py tests/util tests/config tests/model tests/native \
    tests/decoding tests/checkpoint tests/metrics tests/media/test_geometry.py
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-fast test-slow coverage torture audit sbom check lint types docs wheel clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/base: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "regard needs Python 3.11 or later; name one with PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing regard into .venv; the first time takes a few minutes."
	$(PIP) -e .
	@touch $@

.venv/dev: .venv/base
	$(PIP) -e '.[dev]'
	@# Of cyclonedx, which works without it. jsonschema takes it where it is, and with it each of
	@# Ray's twelve processes 3 seconds longer to start.
	$(BIN)/python -m pip uninstall --quiet --yes rfc3987-syntax
	@touch $@

demo: .venv/base  ## caption the sample photographs and draw where the model looked
	$(BIN)/regard caption src/regard/samples/*.jpg --explain demo
	@echo "For every photograph demo/ holds a picture of where the model looked for each word."

test: .venv/dev  ## run the default test suite
	$(PYTEST) --durations=15

test-fast: .venv/dev  ## run the quick tests of laws and values: a minute, for use while editing
	$(PYTEST) $(FAST)

test-slow: .venv/dev  ## run the tests that need Ray, several processes, Java, Chromium or minutes
	$(PYTEST) -m slow --durations=15

coverage: .venv/dev  ## run the default test suite and print how much of the code it runs
	$(PYTEST) --cov=regard --cov-report=term:skip-covered

torture: .venv/dev  ## try faults for about 20 minutes and count them; more with SCALE=10
	$(BIN)/python -m tests.fuzz --scale $(or $(SCALE),1)

audit: .venv/dev sbom  ## look for what is known to be unsafe, in the code and in the packages
	$(BIN)/python .ci/audit.py bandit packages

sbom: .venv/dev  ## write what regard and all that is installed with it are, as CycloneDX JSON
	$(BIN)/python .ci/audit.py sbom

check: lint types docs  ## style, types, documentation

lint: .venv/dev  ## check style and layout of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev  ## check types
	$(BIN)/pyright

docs: .venv/dev  ## write docs/cli.md anew and build the documentation into site/
	$(BIN)/python -m typer regard.cli.main utils docs --name regard --output docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: .venv/dev  ## build the wheel, and caption a photograph with it from another folder
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps -w dist .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target dist/installed dist/*.whl
	cd / && PYTHONPATH=$(CURDIR)/dist/installed $(CURDIR)/$(BIN)/python -m regard caption \
	    $(CURDIR)/dist/installed/regard/samples/dog.jpg

clean:  ## remove everything that was made here
	rm -rf .venv demo site build dist
