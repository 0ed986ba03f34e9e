# The two commands are `make demo` and `make test`; both do all their own set-up.
# Without make: apt-get install make (or scripts/set-up demo, which brings it).

BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test lint soak chaos bench requirements build clean

help:
	@echo 'make demo          watch people on XMPP and Matrix talk, and join in (ONCE=1: check and end)'
	@echo 'make test          every check'
	@echo 'make lint          only style, types and import contracts'
	@echo 'make soak          mixed traffic with restarts (ISTHMUS_SOAK_MINUTES=10); 10,000 events each way'
	@echo 'make chaos         twenty rounds of kill -9'
	@echo 'make bench         measurements'
	@echo 'make requirements  pin the dependencies anew (UPGRADE=1: to the newest versions)'
	@echo 'make build         the wheel, in dist/'
	@echo 'make clean         remove what was made, the environments included'

demo:
	@scripts/set-up demo
	@$(BIN)/isthmus demo $(if $(filter 1 yes true,$(ONCE)),--once)

test:
	@scripts/set-up test
	@$(MAKE) --no-print-directory checks
	@scripts/run-tests $(BIN)/pytest

lint:
	@scripts/set-up tools
	@$(MAKE) --no-print-directory checks

.PHONY: checks
checks:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak chaos bench:
	@scripts/set-up test
	$(BIN)/pytest -m $@ --timeout=7200 -s

requirements:
	@scripts/set-up tools
	scripts/requirements $(if $(filter 1 yes true,$(UPGRADE)),--upgrade)

build:
	@scripts/set-up tools
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist .

clean:
	rm -rf .venv .venv-synapse build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find bridge migrations scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
