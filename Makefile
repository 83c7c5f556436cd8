# `make` alone prints this list.
.DEFAULT_GOAL := help
.PHONY: help install install-dev run dev train promote rollback export stop test test-system soak bench lint format lock audit sbom system-packages bench-packages

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= train_config.yaml
MINUTES ?= 60
BIN := $(VENV)/bin
AUDIT_BIN := $(VENV)-audit/bin

# Stamps carry the lock's checksum, so that a changed lock, and only that, installs anew.
LOCK_SUM := $(shell cat requirements.lock | cksum | tr -d ' ')
AUDIT_SUM := $(shell cat requirements-audit.lock | cksum | tr -d ' ')
DEV_SUM := $(shell cat requirements.lock requirements-dev.lock | cksum | tr -d ' ')
INSTALLED := $(VENV)/.installed-$(LOCK_SUM)
DEV_INSTALLED := $(VENV)/.installed-dev-$(DEV_SUM)
AUDIT_INSTALLED := $(VENV)-audit/.installed-$(AUDIT_SUM)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes \
	--no-compile
# pip compiles one file after the other; this uses all processors. What can't be compiled is of no
# consequence, as with pip: there are packages with examples for other Pythons.
COMPILE := $(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

install: $(INSTALLED) ## make .venv with exactly what requirements.lock names

install-dev: $(DEV_INSTALLED) ## the same, and the tools that `make test` uses

run: $(INSTALLED) ## start MLflow, Ray and the service; train a first model; Ctrl-C stops all of it
	@exec $(BIN)/python -m launcher run --train $(CONFIG)

dev: $(INSTALLED) ## the same, and deploy again on every change of serve_app/
	@exec $(BIN)/python -m launcher run --train $(CONFIG) --reload

train: $(INSTALLED) ## train as a Ray job in the running system (CONFIG=train_config.yaml)
	@exec $(BIN)/python -m launcher train --config $(CONFIG)

# VERSION and REASON are in the recipe's environment: among its words, quotes in them would count.
promote: $(INSTALLED) ## make a version champion by hand (VERSION=2 REASON="why")
	@exec $(BIN)/python -m launcher train promote --config $(CONFIG) \
		--version "$$VERSION" --reason "$$REASON"

rollback: $(INSTALLED) ## make the previous champion champion again (REASON="why")
	@exec $(BIN)/python -m launcher train rollback --config $(CONFIG) --reason "$$REASON"

export: $(INSTALLED) ## write the champion into var/model, for MODEL_SERVED=local
	@exec $(BIN)/python -m launcher export

stop: $(INSTALLED) ## stop what `make run` started here
	@exec $(BIN)/python -m launcher stop

# Hundreds of processes of the tests import the same files.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest

test: lint ## everything: lint, types, all tests
	$(PYTEST) -m "not system" --durations=15

test-system: $(DEV_INSTALLED) ## the long forms of the fault, load and rollout tests
	$(PYTEST) -m system

soak: $(DEV_INSTALLED) ## random faults under traffic, with memory measured (MINUTES=60)
	@exec $(BIN)/python -m tests.faults.soak --minutes $(MINUTES)

bench: $(INSTALLED) ## measure the service and its peers, into benchmarks/RESULTS.md (BENCH="--quick")
	@exec $(BIN)/python -m benchmarks $(BENCH)

lint: $(DEV_INSTALLED) ## ruff, mypy, and the checks of Dockerfile, compose file and workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml \
		deploy/compose.mlflow-page.yml
	sed 's/!reset //' deploy/compose.production.yml | $(BIN)/check-jsonschema \
		--builtin-schema vendor.compose-spec --default-filetype yaml -
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/actionlint

format: $(DEV_INSTALLED) ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## resolve the dependencies anew (needs uv)
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" \
		--upgrade -o requirements.lock
	uv pip compile --group dev -c requirements.lock --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --upgrade -o requirements-dev.lock
	uv pip compile --group audit --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --upgrade -o requirements-audit.lock

# Without --strict, packages that the database doesn't show would pass as sound.
audit: $(AUDIT_INSTALLED) ## look up known vulnerabilities of what the locks name (asks pypi.org)
	$(AUDIT_BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		--requirement requirements.lock --requirement requirements-dev.lock \
		--requirement requirements-audit.lock

sbom: $(AUDIT_INSTALLED) ## list what requirements.lock names in var/sbom.json (CycloneDX)
	@mkdir -p var
	$(AUDIT_BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
		--spec-version 1.6 --output-reproducible --validate --output-file var/sbom.json requirements.lock

system-packages: ## install the system packages that the tests need (Debian, as root)
	@for tool in curl git chromium chromedriver:chromium-driver; do \
		command -v $${tool%:*} >/dev/null || missing="$$missing $${tool#*:}"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing; \
	else \
		echo "error: install these first:$$missing" >&2; exit 2; \
	fi

bench-packages: ## install the load generator that `make bench` needs (Debian, as root)
	@if command -v wrk >/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends wrk; \
	else \
		echo "error: install wrk first" >&2; exit 2; \
	fi

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: $(PYTHON) is missing: install Python 3.11 or newer, or set PYTHON" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit( \
		"error: Python %d.%d does not do: install 3.11, 3.12 or 3.13, or set PYTHON" % v)'
	@if [ -e $(VENV) ] && [ ! -f $(VENV)/pyvenv.cfg ]; then \
		echo "error: $(VENV) exists and is no virtual environment: set VENV" >&2; exit 2; fi
	@$(PYTHON) -m venv --clear $(VENV) && $(BIN)/python -m pip --version >/dev/null || { \
		rm -f $(BIN)/python; \
		echo "error: no virtual environment could be made: on Debian, install python3-venv" >&2; \
		exit 2; }

$(INSTALLED): | $(BIN)/python
	@echo "installing requirements.lock into $(VENV) (a minute or two) ..."
	@$(PIP_INSTALL) -r requirements.lock
	@$(COMPILE)
	@touch $@

$(DEV_INSTALLED): | $(BIN)/python
	@echo "installing requirements.lock and requirements-dev.lock into $(VENV) ..."
	@$(PIP_INSTALL) -r requirements.lock -r requirements-dev.lock
	@$(COMPILE)
	@touch $(INSTALLED) $@

$(AUDIT_INSTALLED): | $(BIN)/python
	@echo "installing requirements-audit.lock into $(VENV)-audit ..."
	@$(BIN)/python -m venv --clear $(VENV)-audit
	@$(AUDIT_BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes \
		-r requirements-audit.lock
	@touch $@
