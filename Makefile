# Everything here works on a fresh machine: Python 3.11 or newer and, for the embedded Kafka, Java 17 or newer and Maven.

PYTHON ?= python3
SEEDS ?= 10000
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := libs services tests examples grafana

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: venv
venv: $(INSTALLED) ## create .venv with Moorage and what its tests need

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Moorage needs Python 3.11 or newer, $(PYTHON) is "\
	+ sys.version.split()[0] + ". Name another one: make PYTHON=python3.12 ...")'
	@echo 'Setting up $(VENV)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[embedded]' --group dev
	@touch $@

.PHONY: demo
demo: $(INSTALLED) ## 200,000 orders, a worker and the coordinator killed on the way, every result counted
	@$(BIN)/moorage demo

.PHONY: check
check: $(INSTALLED) ## style, types and import rules
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check-compose
check: check-compose
check-compose: $(INSTALLED) ## what docker is given: the Dockerfile, compose.yaml, alert rules
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec compose.yaml compose/*.yaml
	@if docker compose version >/dev/null 2>&1; then docker compose --profile '*' config --quiet; fi
	@if command -v promtool >/dev/null; then cd compose/prometheus && promtool test rules alerts_test.yaml; fi

.PHONY: test
test: $(INSTALLED) ## unit tests, simulation, tests on a real Kafka and Redis
	$(BIN)/pytest -q -m 'not kafka' -n 2 tests
	$(BIN)/pytest -q -m kafka tests

.PHONY: test-flink
test-flink: $(INSTALLED) ## Flink's own classes load the checkpoint metadata that we write
	mvn -q -f tests/compatibility/flink/java/pom.xml package
	$(BIN)/pytest -q tests/compatibility/flink/flink_loads_ours.py

AZURITE := .cache/azurite/node_modules/azurite/package.json

$(AZURITE): Makefile
	@command -v npm >/dev/null || { echo 'make test-clouds needs Node.js 20 or newer with npm, for azurite.' >&2; exit 1; }
	@mkdir -p .cache/azurite
	npm install --silent --no-audit --no-fund --prefix .cache/azurite azurite@3.37.0
	@touch $@

.PHONY: test-clouds
test-clouds: $(INSTALLED) $(AZURITE) ## checkpoints in Azure's store: its emulator, which npm brings
	$(BIN)/pytest -q tests/contract/azure_storage.py

.PHONY: test-compose
test-compose: $(INSTALLED) ## docker compose up, with crashes; needs a working `docker compose` and a headless Chromium
	@docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1 \
	|| { echo 'make test-compose needs a working `docker compose`: a running engine and its Compose plugin.' >&2; exit 1; }
	$(BIN)/pytest -q tests/compose/whole_stack.py

.PHONY: simulate
simulate: $(INSTALLED) ## the simulation with SEEDS=10000
	@$(BIN)/python -m moorage.testing.simulate --seeds $(SEEDS)

.PHONY: fuzz
SECONDS ?= 60
TARGET ?=
fuzz: $(INSTALLED) ## fuzz every reader of bytes, guided by coverage; SECONDS=60 TARGET=metadata
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --group fuzz
	PYTHONPATH=. $(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) $(TARGET)

.PHONY: generate
generate: $(INSTALLED) ## write anew what is generated: the schemas' frozen copy of 0.1, golden messages, pages, dashboards
	rm -rf schemas/released/0.1
	$(BIN)/python -m moorage.serde.release_schemas 0.1
	$(BIN)/python -m tests.unit.serde.control_messages > tests/unit/serde/golden_messages.txt
	$(BIN)/python -m moorage.serde.docs > docs/messages.md
	$(BIN)/python -m moorage.config.docs > docs/settings.md
	$(BIN)/python -m moorage_cli.metrics_page > docs/metrics.md
	$(BIN)/python -m grafana.generate

.PHONY: clean
clean: ## remove what was made here but for .venv
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

.PHONY: chaos
ROUNDS ?= 20
CHAOS ?= --rescale --savepoints --failpoints
chaos: $(INSTALLED) ## random SIGKILL and SIGSTOP of real processes under load, ROUNDS=20, and what CHAOS says besides
	$(BIN)/python -m tests.chaos.kill_loop --rounds $(ROUNDS) $(CHAOS)

.PHONY: bench
bench: $(INSTALLED) ## the main job at full speed: records per second, CPU per record, checkpoint durations
	$(BIN)/python tests/benchmarks/bench_main_job.py
