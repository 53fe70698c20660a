# Everything runs through .venv, which `make setup` builds from pyproject.toml and constraints.txt.
# A machine with nothing but python3 (3.11 for the pinned versions), its venv module and make is enough.

PYTHON ?= python3
PYTEST_ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint types check bench docs tiny-base

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

$(READY): pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	touch $@

$(DOCS_READY): $(READY)
	$(INSTALL) -e '.[dev,docs]'
	touch $@

setup: $(READY) ## create .venv with the package and the development tools

demo: $(READY) ## SFT against IFT on a small reasoning world, from the shipped base model
	$(VENV)/bin/ift demo

test: $(READY) ## the fast tests (PYTEST_ARGS="-k name" to choose)
	$(PY) -m pytest $(PYTEST_ARGS)

test-slow: $(READY) ## the tests that take minutes, and those on real rows where the rows are there
	$(PY) -m pytest -m "(slow or realdata) and not gpu" $(PYTEST_ARGS)

lint: $(READY) ## ruff: rules and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(READY) ## mypy
	$(VENV)/bin/mypy

check: lint types test ## what must pass before a commit

bench: $(READY) ## cost of a step against trl: operations and seconds, JSON and PNG
	$(PY) benchmarks/step_cost.py --output step_cost.json --plot step_cost.png

docs: $(DOCS_READY) ## build the documentation into site/, every warning an error
	$(VENV)/bin/mkdocs build --strict

tiny-base: $(READY) ## make the shipped base model again, from nothing
	$(PY) -m ift.testbed.make_base --output src/ift/testbed/tiny_base
