# Every target works in a fresh clone: the first target that needs .venv creates it from the locked requirements.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/python -m uv
# Tests mostly wait, so more tests than cores run at once. The tests of one file run in one process and share its server.
TESTS_AT_ONCE ?= 3
LOAD_AGENTS ?= 100
LOAD_SECONDS ?= 75
LOAD_SHAPE ?= steady

PYTEST := $(BIN)/python -m pytest --numprocesses $(TESTS_AT_ONCE) --dist loadfile

KEY ?= one_event_rps_per_core

.DEFAULT_GOAL := help
.PHONY: help install demo test test-patroni coverage check format bench bench-check bench-plots bench-plans sizing flame load package sbom lock reference docs clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

install: .venv/installed ## Install everything into .venv

demo: .venv/installed ## Run a server, three agents on this host's logs and inventory, and commands; compare the counts with the database
	$(BIN)/comms-api demo

test: .venv/installed ## Run every test, on real PostgreSQL, sockets and processes
	$(PYTEST)

test-patroni: .venv/installed ## Test failover with real Patroni and etcd; first: apt-get install patroni etcd-server postgresql
	$(BIN)/python -m pytest -s -m patroni

coverage: .venv/installed ## Run every test and report line coverage, including the servers and agents that tests start
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --skip-covered --skip-empty

check: .venv/installed ## Check lint rules, formatting, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed ## Fix lint findings and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: .venv/installed ## Write the reference that is generated from code to docs/reference/
	PYTHONPATH=tests $(BIN)/python -m support.descriptions

docs: .venv/docs/installed ## Build the site of the documents in build/site; a warning is an error
	rm -rf build/site
	.venv/docs/bin/python -m sphinx --quiet --fail-on-warning -c docs/site -d build/doctrees . build/site

bench: .venv/installed ## Measure everything; writes build/bench.json
	$(BIN)/python -m bench

load: .venv/load/installed ## Simulate LOAD_AGENTS agents for LOAD_SECONDS (LOAD_SHAPE: steady, storm or soak); writes build/load.html
	PYTHONPATH=tests $(BIN)/python -m load --locust .venv/load/bin/locust --agents $(LOAD_AGENTS) --seconds $(LOAD_SECONDS) --shape $(LOAD_SHAPE)

bench-check: .venv/installed ## Measure the cost of requests; fail if one is more than 30 % worse than in bench/baseline.json
	$(BIN)/python -m bench --check bench/baseline.json

bench-plots: .venv/installed ## Draw docs/performance/*.svg from the figures in build/
	$(BIN)/python -m bench.plots

bench-plans: .venv/installed ## Write the query plans of hot statements on large tables to docs/performance/plans/
	$(BIN)/python -m bench.plans

sizing: .venv/installed ## Compute docs/operations/sizing.md from the figures in build/
	$(BIN)/python -m bench.sizing

flame: .venv/installed ## Profile the server while measuring KEY; writes build/flame-KEY.svg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/flame.txt
	$(BIN)/python -m bench.flame $(KEY)

package: .venv/package/installed ## Build the wheel in build/dist, and install it in an empty environment, .venv/package

sbom: .venv/package/installed ## List what an installation consists of: build/sbom.json (CycloneDX) and build/licenses.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/sbom.txt
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json .venv/package
	$(BIN)/pip-licenses --python .venv/package/bin/python --from mixed --format plain-vertical --output-file build/licenses.txt

lock: .venv/installed ## Pin the newest versions of all requirements, with hashes
	$(BIN)/python -m pip install --quiet uv
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --group dev pyproject.toml -o requirements/dev.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url -c requirements/dev.txt --all-extras pyproject.toml -o requirements/run.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url -c requirements/dev.txt --group load -o requirements/load.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --group flame -o requirements/flame.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url -c requirements/dev.txt --group sbom -o requirements/sbom.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url -c requirements/dev.txt --group docs -o requirements/docs.txt

clean: ## Remove everything that these targets have created, including .venv
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

.venv/installed: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'comms-api needs Python 3.11 or newer: make PYTHON=/path/to/python …' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -qqy python3-venv; } || { echo 'comms-api needs the venv module of Python: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch .venv/installed

# A separate environment, because locust brings a plugin that pytest would load.
.venv/load/installed: .venv/installed requirements/load.txt
	$(BIN)/python -m venv .venv/load
	.venv/load/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/load.txt
	@touch .venv/load/installed

.venv/docs/installed: .venv/installed requirements/docs.txt
	$(BIN)/python -m venv .venv/docs
	.venv/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch .venv/docs/installed

.venv/package/installed: .venv/installed requirements/run.txt $(shell find comms_api migrations -name '*.py')
	rm -rf build/dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/dist .
	$(BIN)/python -m venv .venv/package
	.venv/package/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	.venv/package/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall build/dist/comms_api-*.whl
	@touch .venv/package/installed
