# `make run` does everything, `make test` checks everything; `make` alone says what there is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

-include pllava/core/quiet.env
export $(shell sed -n 's/^\([A-Z].*\)=.*/\1/p' pllava/core/quiet.env 2>/dev/null)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PREFECT_HOME := $(CURDIR)/.state/prefect

.PHONY: help run repro test bench lint tree up down status remote clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Programs in .venv/bin name the folder they were installed in: where the project was moved or copied they are made anew.
WAS := $(shell sed -n 's,^command = .* -m venv \(/.*\)/.venv$$,\1,p' .venv/pyvenv.cfg 2>/dev/null)
MOVED := $(if $(filter-out $(CURDIR),$(WAS)),moved)
.PHONY: moved
moved:
	@echo "this folder was $(WAS): .venv is made anew"
	@rm -rf .venv

# The stamp holds what was installed; a file that is only newer costs nothing.
LOCKED := requirements.lock pyproject.toml
$(INSTALLED): $(LOCKED) $(MOVED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version or 0)'
	@if ! cat $(LOCKED) | cmp -s - $@; then \
		echo "installing requirements.lock into .venv (about 3 minutes and 2 GB the first time)"; \
		$(PYTHON) -m venv .venv; \
		$(BIN)/python -m pip install -q -r requirements.lock; \
		$(BIN)/python -m pip install -q --no-deps -e .; \
	fi
	@cat $(LOCKED) > $@

run: $(INSTALLED) ## bring the pipeline up to date, judge the model, serve the champion
	@$(BIN)/python -m flows.pipeline

repro: $(INSTALLED) ## the DVC stages alone
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc repro

# Two workers, a core each (torch would take all cores for every worker); a file's tests stay together, for the services they share.
# Integration has one worker more: one is at test_stack.py nearly all the time, which mostly waits for services.
WORKERS ?= 2
PYTEST = HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(INSTALLED) ## ruff, unit and integration tests, and the pages where a Chromium is found
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(PYTEST) tests/unit -m "not browser"
	@$(PYTEST) -n $$(($(WORKERS) + 1)) tests/integration -m "not browser"
	@$(PYTEST) tests/browser -m browser

# Each prints a table, then one JSON line, and fails when it misses its bars; all run before make does.
BENCHMARKS := $(wildcard benchmarks/train.py benchmarks/inference.py benchmarks/decode.py benchmarks/long_video.py)
bench: $(INSTALLED) ## speed and memory beside the published code's way, about 4 minutes a file
	@failed=; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python "$$file" || failed="$$failed $$file"; done; \
		if [ -n "$$failed" ]; then echo "missed:$$failed"; exit 1; fi

test-browser: $(INSTALLED) ## the demo and the gallery in a Chromium, about a minute; as root on Debian it installs one
	@command -v chromium chromium-browser google-chrome > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
		&& echo "installing Chromium (apt-get)" && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || true
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/browser -m browser

lint: $(INSTALLED) ## format and check the code, and its types
	@$(BIN)/ruff format .
	@$(BIN)/ruff check .
	@$(BIN)/mypy pllava flows

tree: ## every module, with the first line of what it says of itself
	@$(PYTHON) docs/tree.py

up: $(INSTALLED) ## start Prefect, MLflow, a worker and the demo in the background (docs/operations.md)
	@$(BIN)/pllava up

down: $(INSTALLED) ## stop what runs in the background
	@$(BIN)/pllava down

status: $(INSTALLED) ## what runs, and what is out of date
	@$(BIN)/pllava status
	@said=$$($(BIN)/dvc status 2>&1) && echo "$$said" || case "$$said" in \
		*"is busy"* | *"acquire lock"*) echo "a stage runs: what is out of date shows when it has ended";; \
		*) echo "$$said"; exit 1;; esac

# Written to .dvc/config, so that a clone knows it; credentials belong in .dvc/config.local (docs/data.md).
REMOTE ?= ../pllava-storage
remote: $(INSTALLED) ## push data to a folder beside the project, or to REMOTE=s3://bucket/path (docs/data.md)
	@$(BIN)/dvc remote add -q --force --default storage "$(REMOTE)"
	@$(BIN)/dvc push

clean: ## remove the environment and caches; data, models and records stay
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
