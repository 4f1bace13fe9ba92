# Everything here creates what it needs; a machine with Python 3.11, make and git is enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := breaker brokers cli configuration console deployments flows ledger sandbox services tasks
SCOPE ?= global
# What is compiled is kept, whatever the shell says: every command here is a Python that starts.
unexport PYTHONDONTWRITEBYTECODE
# Read through the environment, so that no reason, however quoted, is ever parsed by a shell.
export REASON OPERATOR SCOPE OVERRIDE VENUES
# A `make up` of this folder is acted on while it runs, and only where nothing else is configured.
ifneq ($(wildcard .breaker/up.mk .breaker/up.pid),)
RUNNING_UP := $(shell $(PYTHON) -IS deployments/up_files.py settings)
ifeq ($(filter BREAKER_%,$(.VARIABLES))$(wildcard breaker.toml),)
-include $(RUNNING_UP)
endif
endif

.PHONY: help install
help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(READY) ## Create .venv with everything pinned by requirements.lock

$(READY): requirements.lock pyproject.toml distributions/ops/pyproject.toml distributions/ops/hatch_build.py
	@if ! command -v uv >/dev/null && ! [ -x $(BIN)/uv ]; then \
	    $(PYTHON) -m venv --clear $(VENV) && sed -n '/^uv==/,/[^\]$$/p' requirements.lock | \
	        $(BIN)/pip install --quiet --require-hashes -r /dev/stdin; fi
	@PATH="$$PATH:$(CURDIR)/$(BIN)"; \
	    [ -x $(BIN)/python ] || uv venv --quiet --python $(PYTHON) $(VENV); \
	    uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
	    uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . -e distributions/ops
	@$(BIN)/python -m compileall -q $(PACKAGES)  # a kill switch must not be compiled while it is needed
	@touch $@

.PHONY: lock
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --no-emit-package trading-breaker --no-emit-package trading-breaker-ops \
    --custom-compile-command 'make lock'
lock: $(READY) ## Resolve again what a checkout, an installation and a build consist of
	@$(LOCK) --group dev pyproject.toml -o requirements.lock
	@$(LOCK) --group build --no-annotate -c requirements.lock -o distributions/requirements.lock
	@$(LOCK) --extra ccxt --extra embedded --extra ib --no-annotate -c requirements.lock distributions/ops/pyproject.toml \
	    -o distributions/ops/requirements.lock

# --- the runbook's commands -------------------------------------------------------------------------------------------
.PHONY: circuit-trip circuit-status circuit-reset circuit-init circuit-history kill-switch
WHO = $(if $(OPERATOR),--operator "$$OPERATOR")
WHY = $(if $(REASON),--reason "$$REASON")

circuit-trip: $(READY) ## Halt trading                        REASON="why" [OPERATOR=you] [SCOPE=account:ALPHA]
	@$(BIN)/breaker trip --scope "$$SCOPE" $(WHO) $(WHY)

circuit-status: $(READY) ## The breaker's state                 [SCOPE=…]
	@$(BIN)/breaker status --scope "$$SCOPE"

circuit-reset: $(READY) ## End a trip, one a minute            REASON="20 characters or more" YES=1 [OVERRIDE="why, though red"] [REBASE=1]
	@$(BIN)/breaker reset --scope "$$SCOPE" $(WHO) --reason "$$REASON" $(if $(YES),--acknowledge) \
	    $(if $(OVERRIDE),--override "$$OVERRIDE") $(if $(REBASE),--rebase-equity)

circuit-init: $(READY) ## Write the first state               [SCOPE=…]
	@$(BIN)/breaker init --scope "$$SCOPE" $(WHO)

circuit-history: $(READY) ## The latest transitions              [SCOPE=…]
	@$(BIN)/breaker history --scope "$$SCOPE"

kill-switch: $(READY) ## Halt, cancel, flatten, prove it     REASON="why" [YES=1 doesn't ask] [OPERATOR=you] [SCOPE=…]
	@$(BIN)/breaker kill --scope "$$SCOPE" $(WHO) $(WHY) $(if $(YES),--yes)

.PHONY: standby
standby: $(READY) ## Stay resident, so that `make kill-switch YES=1` begins within milliseconds
	@$(BIN)/breaker standby

.PHONY: recover audit drill up console metrics down clean
recover: $(READY) ## The recovery checklist, live; answer its forms with: .venv/bin/breaker recover answer
	@$(BIN)/breaker recover --watch

audit: $(READY) ## The audit log, newest first        [INCIDENT=id]
	@$(BIN)/breaker audit $(if $(INCIDENT),--incident "$$INCIDENT")

drill: $(READY) ## The whole circle on a paper account of its own, from the trip to OPEN; files its figures
	@$(BIN)/breaker drill $(WHO)

up: $(READY) ## The whole stack on this machine, until Ctrl-C   [WATCH=300 seconds]
	@$(BIN)/python -m deployments.up $(if $(WATCH),--watch $(WATCH))

console: $(READY) ## The web console on http://127.0.0.1:8500; prints the first admin's password, once
	@$(BIN)/breaker console

metrics: $(READY) ## The exporter on http://127.0.0.1:8503/metrics
	@$(BIN)/breaker metrics

down: ## Stop what `make up` started
	@$(PYTHON) -IS deployments/up_files.py down

clean: ## Remove what `make up` kept in .breaker
	@$(PYTHON) -IS deployments/up_files.py clean

# --- seeing and checking it -------------------------------------------------------------------------------------------
.PHONY: demo test flaky lint format bench soak docs
demo: $(READY) ## A real book, halted and flattened   [VENUES=all] [KEEP=1 leaves it running] [ORDERS=200] [POSITIONS=60]
	@$(BIN)/python -m deployments.demo $(if $(VENUES),--venues "$$VENUES") $(if $(KEEP),--keep) \
	    $(if $(ORDERS),--orders $(ORDERS)) $(if $(POSITIONS),--positions $(POSITIONS))

SUITE := -n 4 --dist loadfile --no-loadscope-reorder
test: $(READY) ## All tests
	@$(BIN)/pytest $(SUITE)

flaky: $(READY) ## The suite again and again on a busy machine     [N=10]; tells which tests depend on how fast it is
	@$(BIN)/python -m proofs.flaky $(if $(N),--times $(N)) -- $(SUITE)

.PHONY: faults fault-matrix crash-points stops
faults: fault-matrix crash-points stops ## Pull every plug, and kill at every I/O

fault-matrix: $(READY) ## Break each part at each step of kill and recovery   [ONLY='redis/*']; into docs/evidence
	@$(BIN)/python -m proofs.faults $(if $(ONLY),'$(ONLY)')

crash-points: $(READY) ## Kill each procedure at each of its I/O    [MINUTES=10 at most]; into docs/evidence
	@$(BIN)/python -m proofs.crash_points --write $(if $(MINUTES),--minutes $(MINUTES))

stops: $(READY) ## How long a position has neither stop nor close, killed at each I/O   [EVERY=20th]; into docs/evidence
	@$(BIN)/python -m proofs.crash_points.stops --write $(if $(EVERY),--every $(EVERY))

.PHONY: failovers
failovers: $(READY) ## Take a primary away under three Sentinels   [TIMES=100]; into docs/evidence
	@$(BIN)/python -m proofs.failovers --write $(if $(TIMES),--times $(TIMES))

.PHONY: three-hosts many-accounts prefect-servers
three-hosts: $(READY) ## Lose each host and service at each phase; as root   [SEED=1] [MINUTES=60 at most]; into docs/evidence
	@$(BIN)/python -m proofs.three_hosts --write $(if $(SEED),--seed $(SEED)) \
	    $(if $(MINUTES),--minutes $(MINUTES))

many-accounts: $(READY) ## Kill 100 accounts, on one host and over workers, one of them killed; into docs/evidence
	@$(BIN)/python -m proofs.many_accounts --write

.PHONY: tws-kills
tws-kills: $(READY) ## Kill an account at a TWS in trouble     [SEEDS=200]; judged by the exchange
	@$(BIN)/python -m proofs.tws_kills $(if $(SEEDS),--seeds $(SEEDS))

prefect-servers: $(READY) ## Lose one of several Prefect API servers, services and triggers; into docs/evidence
	@$(BIN)/python -m proofs.prefect_servers --write

.PHONY: contract
ADAPTER ?= tests.brokers.alpaca_under_test:make $(addprefix tests.brokers.ccxt_under_test:,futures hedge spot)
contract: $(READY) ## Check adapters against what the kill switch relies on   [ADAPTER=mypackage:make]
	@for adapter in $(ADAPTER); do echo "$$adapter"; \
	    $(BIN)/python -m pytest -rs -p brokers.contract.plugin --pyargs brokers.contract --adapter $$adapter || exit 1; done

lint: $(READY) ## Style, types and layers
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: $(READY) ## Put the code in the common style
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench: $(READY) ## The figures of docs/evidence/figures.md
	@$(BIN)/python -m benchmarks

docs: $(READY) ## The documentation as a site in build/docs; writes the generated parts of docs/reference anew
	@$(BIN)/python -m docs.references
	@$(BIN)/sphinx-build -q -W --keep-going -n -b html docs build/docs && echo "build/docs/index.html"

soak: $(READY) ## Drills on the whole stack while it breaks     [SECONDS=3600] [SEED=1]; into docs/evidence
	@$(BIN)/python -m proofs.soak --write docs/evidence/soak.md $(if $(SECONDS),--seconds $(SECONDS)) \
	    $(if $(SEED),--seed $(SEED))

# Engines that are too large for the environment of every day; the tests that need one are skipped without it.
ENGINES := .engines
.PHONY: engines-test
engines-test: $(ENGINES)/freqtrade/.ready $(ENGINES)/nautilus/.ready ## The guards within freqtrade and NautilusTrader, installed apart (1.5 GB)
	@$(BIN)/pytest tests/breaker/engines/test_freqtrade_bot.py tests/breaker/engines/test_nautilus_node.py

$(ENGINES)/freqtrade/.ready: WHAT = freqtrade==2026.9
$(ENGINES)/nautilus/.ready: WHAT = nautilus_trader==1.221.0
$(ENGINES)/%/.ready: $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(@D)
	@$(BIN)/uv pip install --quiet --python $(@D)/bin/python $(WHAT) $$(sed -n 's/^\(redis==[0-9.]*\).*/\1/p' requirements.lock)
	@touch $@

.PHONY: models histories campaigns mutants
mutants: $(READY) ## Change each decision in turn: does a test fail?   [ONLY=kill/plan]; into docs/evidence
	@$(BIN)/python -m proofs.mutants $(ONLY)

models: $(READY) ## Every state that breaker and gates can reach, searched
	@MODEL=full $(BIN)/pytest -s tests/proofs/test_gate_model.py tests/proofs/test_breaker_model.py \
	    tests/proofs/test_breaker_rules.py

histories: $(READY) ## Concurrent callers under faults, checked for linearizability   [HISTORIES=2000]
	@HISTORIES=$(or $(HISTORIES),2000) $(BIN)/pytest -s tests/proofs/test_histories.py

campaigns: $(READY) ## Thousands of kill switches on rough markets, and many processes at once; takes hours
	@BREAKER_TEST_SCALE=full $(BIN)/pytest -s tests/tasks/test_campaigns.py tests/tasks/test_flatten.py \
	    tests/flows/test_kill_switch.py tests/ledger/test_faults.py tests/breaker/test_processes.py \
	    tests/brokers/ccxt/test_kill.py

# --- giving it away ---------------------------------------------------------------------------------------------------
.PHONY: build
BUILD := build/venv
$(BUILD)/.ready: distributions/requirements.lock | $(READY)
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(BUILD)
	@$(BIN)/uv pip install --quiet --python $(BUILD)/bin/python --require-hashes -r distributions/requirements.lock
	@touch $@

build: $(BUILD)/.ready ## Both distributions, checked, and the application's bill of materials, in dist/
	@rm -rf dist
	@$(BUILD)/bin/uv build --quiet --all-packages --no-build-isolation --python $(BUILD)/bin/python --out-dir dist
	@$(BUILD)/bin/twine check --strict dist/*.whl dist/*.tar.gz
	@$(BUILD)/bin/check-wheel-contents dist/trading_breaker-*.whl
	@$(BUILD)/bin/check-wheel-contents --config distributions/ops/pyproject.toml dist/trading_breaker_ops-*.whl
	@$(BUILD)/bin/python distributions/bill_of_materials.py dist
