# One entry point for people and for CI; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE := .venv-engine
UV := $(BIN)/uv
export UV_HTTP_TIMEOUT ?= 300
# Engine for `make up` and `make demo`: vllm, or transformers (small).
DRIFTWHEEL_ENGINE ?= vllm
export DRIFTWHEEL_ENGINE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

##@ Use
.PHONY: help setup demo up down doctor
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(BIN)/.synced $(ENGINE)/.synced ## Install all that is missing: packages, engine, Kafka, base model
	@echo "· Kafka: jars checked against infra/kafka/jars.lock"
	@$(BIN)/python -m infra.kafka.jars fetch > /dev/null
	@echo "· base model: fetched, verified, converted"
	@$(BIN)/python -m infra.base_model > /dev/null
	@echo "✓ set up"

demo: setup ## Run the whole story: train, serve, drift, retrain; exit code 0 only if the loop closed
	$(BIN)/python -m examples.support.demo

up: setup ## Start everything and keep it running (Ctrl-C stops it)
	$(BIN)/driftwheel up

down: $(BIN)/.synced ## Stop what runs, and what a crash left behind
	$(BIN)/driftwheel down

doctor: $(BIN)/.synced ## Say what is wrong with this machine, and how to mend it
	$(BIN)/driftwheel doctor

##@ Develop
.PHONY: check test bench chaos docs format lock
# Tests at a time, each on servers of its own; with 0 there are no processes in between, as a debugger likes it.
SIDE_BY_SIDE ?= 2
check: $(BIN)/.synced ## Format, lint, types, architecture, unit tests (light: no engine)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n $(SIDE_BY_SIDE) tests/unit

# Where to look for them: make test TESTS=tests/flow
TESTS ?= tests
test: setup ## All tests, on real Kafka, PostgreSQL, S3 and vLLM
	$(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --durations=40 $(TESTS)

bench: setup ## Measure latency, throughput and memory
	@set -e; for file in bench/[a-z]*.py; do echo "· $$file" >&2; $(BIN)/python -m bench.$$(basename $$file .py); done

# Everything twice, a random fault a minute; the same SEED draws the same faults.
MINUTES ?= 10
chaos: setup ## Kill, freeze and cut parts for MINUTES=10 with SEED=…, then check the whole history
	$(BIN)/python -m pytest -m soak
	$(BIN)/python -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

docs: $(BIN)/.synced ## Build the documentation site in build/site; a link that leads nowhere fails
	@$(BIN)/python -m infra.docs

format: $(BIN)/.synced ## Rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Hashes for every platform and for Python 3.11 and newer; no index host is written.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links --upgrade
EXTRA = $(BIN)/python -c 'import sys, tomllib; \
	print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]]))'
lock: $(UV) ## Resolve the newest packages and rewrite requirements/
	$(LOCK) pyproject.toml --extra train --extra evaluate --extra monitor --extra docs --extra dev -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/core.txt
	$(LOCK) pyproject.toml --extra train --extra evaluate -c requirements/dev.txt -o requirements/worker.txt
	$(LOCK) pyproject.toml --extra monitor -c requirements/dev.txt -o requirements/monitor.txt
	$(EXTRA) engine | $(LOCK) - -o requirements/engine.txt
	echo uv | $(LOCK) - -c requirements/dev.txt -o requirements/uv.txt

# -- files ---------------------------------------------------------------------------------------------------------
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
		"Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 " + "setup")'
	@echo "· virtual environment: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || (rm -rf $(VENV); echo "python3 -m venv failed: on Debian install python3-venv"; exit 1)

$(UV): requirements/uv.txt | $(BIN)/python
	@echo "· uv, by pip"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(BIN)/python -m ensurepip > /dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

$(BIN)/.synced: requirements/dev.txt pyproject.toml | $(UV)
	@echo "· packages: requirements/dev.txt → $(VENV)"
	@$(UV) pip sync --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(ENGINE)/.synced: requirements/engine.txt | $(UV)
	@echo "· engine: requirements/engine.txt → $(ENGINE) (about 6 GB)"
	@test -x $(ENGINE)/bin/python || $(UV) venv --quiet --no-project --python $(BIN)/python $(ENGINE)
	@$(UV) pip sync --python $(ENGINE)/bin/python --require-hashes requirements/engine.txt
	@touch $@
