# `make` prints the targets. People and CI run the same ones.
SHELL := /bin/bash -euo pipefail
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON3 ?= python3
BIN := $(VENV)/bin
PY := $(BIN)/python
EXTRAS := worker,gateway,bench,train,dev
# More arguments for the command behind a target: make up ARGS="--port 9000", make test ARGS="-k failover".
ARGS ?=

INSTALLED := $(VENV)/.installed
BUF := node_modules/.bin/buf

.PHONY: help
help: ## Print the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | \
	  while IFS=$$'\t' read -r name text; do printf '  \033[1m%-14s\033[0m %s\n' "$$name" "$$text"; done

.PHONY: install
install: $(INSTALLED) ## Create .venv with everything that the other targets need

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py
	@test -x $(PY) || $(PYTHON3) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

.PHONY: protos
protos: $(INSTALLED) ## Generate the Python code of protos/ (not committed)
	@$(PY) hatch_build.py

.PHONY: up
up: protos ## Run the mesh on this machine: registry, worker with the demo model, gateway
	$(BIN)/mesh up $(ARGS)

.PHONY: test
test: protos ## Run the unit, component and model tests
	$(PY) -m pytest tests/unit tests/component tests/model $(ARGS)

.PHONY: e2e
e2e: protos ## Run the tests of the commands as a person runs them
	$(PY) -m pytest tests/e2e $(ARGS)

.PHONY: check
check: ruff types imports buf ## Lint, format, types, import rules, protos

.PHONY: ruff
ruff: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: protos
	$(BIN)/pyright

.PHONY: imports
imports: protos
	$(BIN)/lint-imports --no-cache

.PHONY: buf
buf: $(BUF)
	$(BUF) lint
	$(BUF) breaking --against protos/baseline.json

$(BUF): package.json package-lock.json
	npm ci --no-audit --no-fund
	@touch $@

.PHONY: fmt
fmt: $(INSTALLED) $(BUF) ## Format the code and the protos
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BUF) format --write
