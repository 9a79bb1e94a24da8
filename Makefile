# `make help` says what there is. Everything runs from the work tree's own environment, .venv.

PYTHON ?= python3
PYTEST_ARGS ?=
WORKERS ?= 2
VERBOSE ?=
RECORDS ?=
INPUT ?=
CLOUD ?=
JSON ?=

BIN := .venv/bin
# In a recipe only: `make setup` itself runs before .venv, on the caller's Python.
WITH_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"

# A caller's Python settings would reach every program that is started below.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE VIRTUAL_ENV

LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright && $(BIN)/lint-imports
# Each worker has servers of its own, and a file stays with one worker: its tests share what it has set up.
# In the order given, because the kills take longest and have to begin first.
PYTEST := $(WITH_VENV) $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
UNIT := $(PYTEST) tests/unit $(PYTEST_ARGS)
# Only a run of all of them says anything about coverage.
COVERED := --cov=policies --cov-branch --cov-report=term:skip-covered --cov-fail-under=90
POLICIES := $(PYTEST) tests/unit/test_policies_*.py tests/policies $(or $(PYTEST_ARGS),$(COVERED))
QUICK_POLICIES := $(PYTEST) tests/policies -m "not every" $(PYTEST_ARGS)
SANDBOX := $(PYTEST) tests/sandbox $(PYTEST_ARGS)
FAULTS := $(PYTEST) tests/faults $(PYTEST_ARGS)
CONSOLE := $(PYTEST) tests/console $(PYTEST_ARGS)
SERVERS := $(PYTEST) tests/faults tests/sandbox $(PYTEST_ARGS)

# Runs a tier and says how long it took, also when it fails.
define tier
	@echo "== $(1)"; began=$$(date +%s); \
	if $(2); then verdict=passed; else verdict=FAILED; fi; \
	echo "== $(1) $$verdict in $$(( $$(date +%s) - began )) s"; \
	test $$verdict = passed
endef

.DEFAULT_GOAL := help
.PHONY: help setup demo tour console test test-console unit policies sandbox-tests faults lint bench clean

help: ## this text
	@echo "Targets"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s%s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables"
	@echo "  RECORDS=n      demo, tour, console: how many records to make"
	@echo "  CLOUD=azure    demo: on Azure instead of AWS"
	@echo "  INPUT=folder   demo: your own records instead"
	@echo "  JSON=1         demo, tour: end with JSON for machines; what it says on the way goes to stderr"
	@echo "  PYTEST_ARGS=…  test, unit, policies, sandbox-tests, faults: more arguments for pytest"
	@echo "  WORKERS=n      test, unit, sandbox-tests, faults: how many test at a time, 2 if not given"
	@echo "  VERBOSE=1      setup: show what the steps print, and where things are"
	@echo "  PYTHON=…       setup: the Python that runs it, 3.11 or newer; python3 if not given"
	@echo "  KEYSHIFT_CACHE setup, from the environment: where the engine and the emulators go"

setup: ## environment, engine, emulators, Elasticsearch; seconds when they are there
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "keyshift: Python 3.11 or newer is needed to set up; name one with make setup PYTHON=…" >&2; exit 2; }
	@"$(PYTHON)" -m engine.install $(if $(VERBOSE),--verbose)

demo: setup ## a tenant's move to its own key, in the sandbox, from start to end
	@$(WITH_VENV) $(BIN)/python -m sandbox.demo $(if $(CLOUD),--cloud "$(CLOUD)") $(if $(RECORDS),--records "$(RECORDS)") $(if $(INPUT),--input "$(INPUT)") $(if $(JSON),--json)

tour: setup ## a tenant's whole life: rotated, moved, revoked, restored, removed, deleted
	@$(WITH_VENV) $(BIN)/python -m sandbox.tour $(if $(RECORDS),--records "$(RECORDS)") $(if $(JSON),--json)

console: setup ## the Archive Console on the sandbox, with the demo's tenant, until Ctrl-C
	@$(WITH_VENV) $(BIN)/python -m sandbox.console $(if $(RECORDS),--records "$(RECORDS)")

test: setup ## lint, the unit tier, some policies in the engine, the Console, then the sandbox tier and the fault tier side by side
	$(call tier,lint,$(LINT))
	$(call tier,unit,$(UNIT))
	$(call tier,policies,$(QUICK_POLICIES))
	$(call tier,console,$(CONSOLE) -m "not sandbox and not every")
	$(call tier,sandbox and faults,$(SERVERS))

test-console: setup ## the Console: its document, its processes, its pages in Chromium, a customer's way on the sandbox
	$(call tier,console,$(CONSOLE))

lint: setup ## ruff, pyright and the import rules
	$(call tier,lint,$(LINT))

unit: setup ## tests that need no server
	$(call tier,unit,$(UNIT))

policies: setup ## each policy broken once in the real engine; rule x mode x cloud
	$(call tier,policies,$(POLICIES) --dist load)
	@$(BIN)/python -c 'from policies.report import table; print(table())'

sandbox-tests: setup ## tests against real servers and the real engine
	$(call tier,sandbox,$(SANDBOX))

faults: setup ## kills of the runner and its parts, faults from outside
	$(call tier,faults,$(FAULTS))

bench: setup ## is the runner's memory flat: 10,000 and 200,000 object versions, minutes
	@$(BIN)/python benchmarks/memory.py

clean: ## removes what was built here; the sandbox's and the stacks' state and the cache stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .import_linter_cache
	find . -name __pycache__ -type d -not -path './.sandbox/*' -prune -exec rm -rf {} +
