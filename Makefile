SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
SEEDS ?= 100000
TESTS_AT_ONCE ?= 2
KILLS ?= 1000
EVENTS ?= 10000000
ENGINE ?= podman
BASE ?= python:3.11-slim
IMAGE ?= swell:0.1.0

.PHONY: help demo test check lint types proto soak bench bench-ledger tools-test metrics-test deploy-test chart image image-sbom lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Swell needs Python 3.11 or newer: make PYTHON=python3.11 …" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Run the example: seven workstreams of a real library, in waves, over a local cluster
	$(BIN)/python -m examples.demo

test: $(STAMP) ## Run the test suite, TESTS_AT_ONCE files at a time
	@$(BIN)/python -m tests.deploy.tools
	$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadfile

check: $(STAMP) lint types proto-check test ## Everything CI runs

lint: $(STAMP) ## Style, import rules, protocol buffers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

types: $(STAMP) ## Static types
	$(BIN)/mypy

proto: $(STAMP) ## Generate the gRPC stubs from proto/
	$(BIN)/python -m proto.generate

.PHONY: proto-check
proto-check: $(STAMP)
	$(BIN)/python -m proto.generate --check

soak: $(STAMP) ## Search for new examples, simulate SEEDS runs with faults, kill real processes KILLS times
	$(BIN)/python -m pytest -q -m hypothesis --hypothesis-profile=search
	$(BIN)/python -m tests.simulation.soak --seeds $(SEEDS)
	$(BIN)/python -m tests.crash.soak --kills $(KILLS)

bench: $(STAMP) ## Measure; prints ratios side by side
	$(BIN)/python -m benchmarks

bench-ledger: $(STAMP) ## Measure the ledger with EVENTS events in its log (10,000,000 takes half an hour)
	EVENTS=$(EVENTS) $(BIN)/python -m benchmarks.ledger

tools-test: $(STAMP) ## Install the real coding tools (pinned, cached) and drive them through Swell: TOOLS="claude codex" for some
	$(BIN)/python -m tests.real_tools $(if $(TOOLS),--tools $(TOOLS))

metrics-test: $(STAMP) ## Show dashboards and rules a real run: needs prometheus and promtool on PATH (Debian: apt-get install prometheus)
	$(BIN)/python -m tests.deploy

deploy-test: $(STAMP) ## Check chart and image, build the image on BASE, run chart and deploy/README.md in containers: needs root and podman
	$(BIN)/python -m pytest -q tests/deploy
	$(BIN)/python -m tests.deploy.image --engine $(ENGINE) --base $(BASE) --image $(IMAGE)
	$(BIN)/python -m tests.deploy.live --image $(IMAGE)
	$(BIN)/python -m tests.deploy.readme

chart: $(STAMP) ## Write what deploy/ repeats from elsewhere: locks, rules, dashboards, the schema of settings
	$(BIN)/python -m deploy.generate

image: ## Build the image IMAGE on BASE with ENGINE
	$(ENGINE) build $(SWELL_BUILD_OPTIONS) --build-arg BASE=$(BASE) --file deploy/Dockerfile --tag $(IMAGE) .

image-sbom: ## Write what is in the image IMAGE to swell.cdx.json, as CycloneDX
	$(ENGINE) run --rm --interactive --network none --read-only $(IMAGE) python - < deploy/sbom.py > swell.cdx.json

lock: ## Resolve the pinned versions anew (needs Python 3.13 with pip-tools as PYTHON: it needs the most)
	$(PYTHON) -m piptools compile --quiet --extra dev --extra example --generate-hashes --strip-extras --allow-unsafe \
	  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header -o requirements.lock pyproject.toml
	sed -i 's/^\(pyyaml-ft==[^ ]*\) /\1 ; python_version == "3.13" /' requirements.lock  # libcst wants it there only
	@echo 'Now run make chart: the image has its part of the lock'
