# make            what there is
# make setup      .venv with everything, from requirements.lock
# make test       what CI runs, with make lint

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.stamp
BIN := $(VENV)/bin

# Debian packages that the tests need, installed by `make test` only if missing and only as root.
APT_TEST_PACKAGES := postgresql chromium libatomic1 libimage-exiftool-perl nginx-light pgbouncer
APT_IMAGE_PACKAGES := buildah mmdebstrap runc postgresql

# Two workers a core, as much of the time is waiting; who has nothing left takes over half of what another has.
PYTEST_ARGS ?= --numprocesses $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN)) --dist worksteal
BENCH_ARGS ?=
DEMO_ARGS ?=
LOCK_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup test test-packages test-images coverage lint lint-types lint-secrets lint-audit lint-style format bench demo lock clean

help: ## What can be made
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)$$/\1|\2/p' Makefile | while IFS='|' read -r goal what; do \
		printf '  make %-10s %s\n' "$$goal" "$$what"; done

setup: $(STAMP) ## .venv with everything, from requirements.lock (PYTHON=python3.12 for another Python)
	@:

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
		echo "carscraper needs Python 3.11 or newer, and $(PYTHON) is not installed." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "carscraper needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
			"say make setup PYTHON=python3.11, or whatever yours is called." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) can't make a virtual environment: on Debian, apt-get install python3-venv." >&2; exit 1; }
	@echo "Making $(VENV) from requirements.lock (a minute or two the first time)"
	@# A new lock gets a new .venv: what only the old one had would stay, and may contradict the new versions.
	@$(BIN)/python -c '' 2>/dev/null && cmp -s requirements.lock $(VENV)/requirements.lock \
		|| $(PYTHON) -m venv --clear $(VENV)
	@# The lock is complete: nothing is resolved here, so that no newer version anywhere changes what is installed.
	@# Byte code is made by all cores afterwards: pip takes one.
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-compile \
		--no-deps --require-hashes --requirement requirements.lock
	@$(BIN)/python -m compileall -qq --workers 0 $(VENV)/lib || true
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
		--no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check --disable-pip-version-check
	@cp requirements.lock $(VENV)/requirements.lock
	@touch $@

test-packages:
	@scripts/test-packages $(APT_TEST_PACKAGES)

test: setup test-packages ## The tests, real crawls against real services included (PYTEST_ARGS=…)
	@$(BIN)/python -m compileall -q carscraper tests  # also where Python is told to write no byte code
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-images: setup ## Builds the containers' images and runs them; needs root on Debian, no engine (docs/deploy.md)
	@scripts/test-packages $(APT_IMAGE_PACKAGES)
	@# What it mounts nobody else sees, and ends with it.
	@unshare --mount $(BIN)/python -m pytest -rP tests/deploy/images.py

coverage: setup test-packages ## The tests, and which lines they don't reach
	@$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

lint: setup ## ruff and mypy; secrets in files, and known vulnerabilities of what is locked
	@$(MAKE) --no-print-directory --jobs lint-types lint-secrets lint-audit lint-style

lint-types:
	@$(BIN)/mypy

lint-secrets:
	@$(BIN)/python scripts/secret_scan.py

lint-audit:
	@$(BIN)/python scripts/dependency_audit.py

lint-style:
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: setup ## Lays the code out as lint wants it
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: setup ## Our crawl beside stock Scrapy, in one run (BENCH_ARGS=…)
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

demo: setup ## A whole crawl here, against a simulated dealer and a real S3 server (DEMO_ARGS=--stay)
	@$(BIN)/python -m tests.demo $(DEMO_ARGS)

lock: setup ## requirements.lock anew from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)
	@CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --all-extras --generate-hashes \
		--strip-extras --unsafe-package pip --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host $(LOCK_ARGS) --output-file requirements.lock pyproject.toml

clean: ## Removes .venv and caches; what crawls have kept (var/) stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
