# Everything runs through .venv, which `make setup` builds from pyproject.toml and constraints.txt.
# A machine with nothing but python3 (3.11 for the pinned versions), its venv module and make is enough.

PYTHON ?= python3
PYTEST_ARGS ?=
# one process a core, up to four, each with the files of its own: tests use one thread
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --disable-pip-version-check -c constraints.txt
READY := $(VENV)/.ready
DOCS_READY := $(VENV)/.docs-ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-versions lint types security check bench docs dist sbom tiny-base

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

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
	$(PY) -m pytest $(PARALLEL) $(PYTEST_ARGS)

test-slow: $(READY) ## the tests that take minutes, and those on real rows where the rows are there
	$(PY) -m pytest -m "(slow or realdata) and not gpu" $(PYTEST_ARGS)

test-versions: $(READY) ## contract tests and short trainings on the oldest and newest versions allowed of trl and others
	$(PY) tools/versions.py

lint: $(READY) ## ruff: rules and format; import-linter: which room may import which
	$(VENV)/bin/ruff check --no-cache .  # a cached result does not know of moved modules
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(READY) ## mypy
	$(VENV)/bin/mypy

# one old release, whose record says whether the service tells of vulnerabilities (a mirror may not)
ADVISORIES := https://pypi.org/pypi/pip/24.0/json
ASK := import json, urllib.request as r; json.load(r.urlopen("$(ADVISORIES)", timeout=10))["vulnerabilities"]

security: $(READY) ## bandit on the source; pip-audit on the pinned versions, where its service can be reached
	$(VENV)/bin/bandit -q -c pyproject.toml -r src
	@if $(PY) -c '$(ASK)' 2>/dev/null; \
	then $(VENV)/bin/pip-audit --progress-spinner off --no-deps --disable-pip -r constraints.txt; \
	else echo "pip-audit: its service at pypi.org cannot be reached: known vulnerabilities were NOT looked for"; fi

check: lint types security test ## what must pass before a commit

bench: $(READY) ## cost of a step against trl: operations and seconds, JSON and PNG
	$(PY) benchmarks/step_cost.py --output step_cost.json --plot step_cost.png

docs: $(DOCS_READY) ## build the documentation into site/, every warning an error
	$(VENV)/bin/mkdocs build --strict

# the time of the last commit: the same tree gives the same bytes
dist: $(READY) ## wheel and source archive in dist/, reproducible
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} $(VENV)/bin/hatchling build
	cd dist && sha256sum *.whl *.tar.gz

# outside .venv, whose packages it would change
SBOM := .venv-sbom
$(SBOM)/.ready:
	test -x $(SBOM)/bin/python || $(PYTHON) -m venv $(SBOM)
	$(SBOM)/bin/pip install --disable-pip-version-check cyclonedx-bom==7.5.0
	touch $@

sbom: $(SBOM)/.ready ## bill of materials of the pinned versions (CycloneDX) in sbom.cdx.json
	$(SBOM)/bin/cyclonedx-py requirements constraints.txt --pyproject pyproject.toml --output-reproducible -o sbom.cdx.json

tiny-base: $(READY) ## make the shipped base model again, from nothing
	$(PY) tools/make_base.py --output src/ift/lab/testbed/tiny_base
