# Every target does its own set-up. `make` alone lists them.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test check docs clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

.venv/base: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/dev: .venv/base
	$(PIP) -e '.[dev]'
	touch $@

demo: .venv/base  ## caption the sample pictures and draw where the model looked
	$(BIN)/regard caption src/regard/samples/*.jpg --explain demo
	@echo "The pictures are in demo/."

test: .venv/dev  ## run the default test suite
	$(BIN)/python -m pytest -q

check: .venv/dev  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: .venv/dev  ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

clean:  ## remove everything that was made here
	rm -rf .venv demo site build dist
