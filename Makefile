# Everything here creates what it needs; a machine with Python 3.11, make and git is enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SCOPE ?= global
# Read through the environment, so that no reason, however quoted, is ever parsed by a shell.
export REASON OPERATOR SCOPE

.PHONY: help install
help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(READY) ## Create .venv with everything pinned by requirements.lock

$(READY): requirements.lock pyproject.toml
	@if ! command -v uv >/dev/null && ! [ -x $(VENV)/bin/uv ]; then \
	    $(PYTHON) -m venv --clear $(VENV) && $(BIN)/pip install --quiet uv; fi
	@PATH="$$PATH:$(CURDIR)/$(BIN)"; \
	    [ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) $(VENV); \
	    uv pip install --quiet --python $(BIN)/python -r requirements.lock && \
	    uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

.PHONY: lock
lock: ## Resolve requirements.lock again
	uv pip compile --universal --python-version 3.11 --extra dev --quiet --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
