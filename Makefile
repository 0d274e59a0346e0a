# `make` alone prints this help.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-faults up down status migrate check lint types proto-lint \
	generate verify access schema sql bench clean

help: ## Print this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

setup: $(STAMP) ## Make the environment in .venv

demo: $(STAMP) ## Run real campaigns on the embedded stack, verify them, and stop everything
	$(BIN)/chimera demo

test: $(STAMP) ## Run the whole test suite on the embedded stack
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-unit: $(STAMP) ## Run the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/property

test-faults: $(STAMP) ## Run the tests that kill, cut and flush
	$(BIN)/python -m pytest tests/faults

up: $(STAMP) ## Start the whole stack with server and worker; stays until Ctrl-C
	$(BIN)/chimera up

down: $(STAMP) ## Stop the stack started by `make up`
	$(BIN)/chimera down

status: $(STAMP) ## Say what runs and where
	$(BIN)/chimera status

migrate: $(STAMP) ## Apply pending migrations to CHIMERA_DATABASE_URL and CHIMERA_CLICKHOUSE_URL
	$(BIN)/chimera migrate up

check: lint types proto-lint verify ## Everything that needs no running stack: lint, types, protos

lint: $(STAMP) ## Lint and format check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Strict type check
	$(BIN)/mypy

proto-lint: $(STAMP) ## buf lint and format check
	$(BIN)/python proto/generate.py --check
	PATH=$(BIN):$$PATH buf lint
	PATH=$(BIN):$$PATH buf format -d --exit-code proto

generate: $(STAMP) ## Generate src/chimera/v1 from proto/
	PATH=$(BIN):$$PATH buf format -w proto
	$(BIN)/python proto/generate.py

verify: $(STAMP) ## Prove that src/chimera/v1 equals what proto/ gives
	$(BIN)/python proto/generate.py --check

access: $(STAMP) ## Print the role x RPC table into tests/access.txt
	$(BIN)/python -m pytest tests/guards/test_access.py --update-access

schema: $(STAMP) ## Print the migrated PostgreSQL schema into migrations/schema.sql
	$(BIN)/python -m pytest tests/guards/test_schema.py --update-schema

sql: $(STAMP) ## Print every SQL statement of the product, by module
	$(BIN)/chimera sql

bench: $(STAMP) ## Run the benchmarks; see bench/README.md
	$(BIN)/python -m bench

clean: ## Remove the environment and the embedded stack's data
	rm -rf $(VENV) .chimera .protodeps build dist
