# BluesMinds. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SERVES := $(VENV)/.serves
STAMP  := $(VENV)/.installed
# One more than processors: tests wait a part of the time.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
ARGS   ?=
# With this variable, every process of a test run would compile all modules again.
unexport PYTHONDONTWRITEBYTECODE
KILLS  ?= 100
MINUTES ?= 30

# The LiteLLM proxy that tests use as a real upstream has dependencies of its own.
LITELLM_VENV ?= .venv-litellm
LITELLM      := $(LITELLM_VENV)/.installed
export LITELLM_VENV

# So have LangChain's standard tests.
LANGCHAIN_VENV ?= .venv-langchain
LANGCHAIN      := $(LANGCHAIN_VENV)/.installed
export LANGCHAIN_VENV

# The Node SDKs that tests use as clients. Without npm these tests are skipped.
NODE_CLIENTS := tests/process/node
NODE_MODULES := $(NODE_CLIENTS)/node_modules/.package-lock.json

# Command-line agents take a gigabyte, so only test-agents installs them.
AGENTS := tests/process/agents/node_modules/.package-lock.json

# The executable is built on the newest Python at hand.
NEWEST := $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13*/bin/python) $(shell command -v python3.13) $(PYTHON))
BUILD_VENV ?= .venv-build
BUILD      := $(BUILD_VENV)/.installed

# The documentation site has a builder of its own.
DOCS_VENV ?= .venv-docs
SITE      := $(DOCS_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup environments run test test-process search test-load test-crash test-agents lint types screenshots bench soak bench-usage prices docs binary deb selftest lock clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-12s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Create the virtual environment from the hash-pinned locks

environments: $(STAMP) $(LITELLM) $(LANGCHAIN) $(NODE_MODULES) $(SITE) $(BUILD) ## Create all environments that tests and the executable need

# $(call install,VENV,PYTHON,LOCK). A lock is complete, so pip resolves nothing (--no-deps). Modules are compiled when they are first used; most never are. The checkout is added to the path and need not be built.
# The pip of $(VENV) installs into the others too: the lock pins a version that takes half as long as Python's own. So they wait until $(VENV) is complete.
define install
	@echo "Creating $(1) with $(3); this takes about a minute."
	@test -x $(1)/bin/python || $(2) -c "import ensurepip" 2>/dev/null || { echo "error: $(2) cannot create virtual environments: install python3-venv (apt install python3-venv)" >&2; exit 1; }
	test -x $(1)/bin/python || $(2) -m venv $(if $(filter $(VENV),$(1)),,--without-pip) $(1)
	@echo "Installing the dependencies."
	$(VENV)/bin/python -m pip --python $(1)/bin/python install --quiet --disable-pip-version-check --require-hashes --no-deps --no-compile --requirement $(3)
	$(1)/bin/python -c "import pathlib, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'bluesminds.pth').write_text(str(pathlib.Path.cwd()))"
	printf '#!%s/bin/python\nfrom bluesminds.__main__ import main\n\nmain()\n' "$(abspath $(1))" > $(1)/bin/bluesminds
	chmod +x $(1)/bin/bluesminds
	touch $@
endef

$(SERVES): packaging/locks/run.lock
	$(call install,$(VENV),$(PYTHON),$<)

$(STAMP): packaging/locks/dev.lock | $(SERVES)
	$(call install,$(VENV),$(PYTHON),$<)

$(LITELLM): packaging/locks/litellm.lock | $(STAMP)
	$(call install,$(LITELLM_VENV),$(PYTHON),$<)

$(LANGCHAIN): packaging/locks/langchain.lock | $(STAMP)
	$(call install,$(LANGCHAIN_VENV),$(PYTHON),$<)

$(NODE_MODULES): $(NODE_CLIENTS)/package-lock.json
	@if npm ci --silent --prefix $(NODE_CLIENTS); then touch $@; else echo "npm cannot install the Node SDKs: their tests are skipped."; fi

$(AGENTS): tests/process/agents/package-lock.json
	npm ci --silent --prefix tests/process/agents
	touch $@

$(BUILD): packaging/locks/dev.lock | $(STAMP)
	$(call install,$(BUILD_VENV),$(NEWEST),$<)

$(SITE): packaging/locks/docs.lock | $(STAMP)
	$(call install,$(DOCS_VENV),$(PYTHON),$<)

run: $(SERVES) ## Run the gateway with the demo server on 127.0.0.1:3000
	$(BIN)/python -m bluesminds demo $(ARGS)

# Tests create thousands of small databases. They take half the time in memory, if there is room.
IN_MEMORY := $(shell test -w /dev/shm && test $$(df --output=avail --block-size=1M /dev/shm | tail -1) -ge 4096 && echo TMPDIR=/dev/shm)

# pytest exits with 5 when ARGS select no test.
MAY_BE_EMPTY = $(if $(ARGS),test $$? -eq 5,false)

# The modules of these directories have no fast test, and importing the SDKs takes seconds in each worker.
FAST := -m "not process and not load" --ignore tests/process --ignore tests/load

test: $(STAMP) ## Run the fast tests (ARGS="-k name" to choose)
	$(IN_MEMORY) $(BIN)/python -m pytest $(FAST) -n $(WORKERS) --dist worksteal $(ARGS)

test-process: $(STAMP) $(LITELLM) $(LANGCHAIN) $(NODE_MODULES) ## Test processes, SDKs, LiteLLM, Chromium and kill -9; rerun failures once
	$(IN_MEMORY) $(BIN)/python -m pytest -m process -n $(WORKERS) --dist worksteal --reruns 1 $(ARGS) || $(MAY_BE_EMPTY)

search: $(STAMP) ## Run the property tests with new examples
	$(IN_MEMORY) $(BIN)/python -m pytest -m "hypothesis and not process and not load" --hypothesis-profile=search -n $(WORKERS) $(ARGS)

test-load: $(STAMP) ## Print delays, CPU time and memory under load; no figure is a failure
	$(BIN)/python -m pytest -m load -s $(ARGS) || $(MAY_BE_EMPTY)

test-crash: $(STAMP) ## Kill the gateway KILLS times under load on each engine, and at each point in a request
	$(IN_MEMORY) KILLS=$(KILLS) $(BIN)/python -m pytest -s $(ARGS) tests/process/test_crash.py

test-agents: $(STAMP) $(AGENTS) ## Test command-line agents; npm installs about a gigabyte
	$(BIN)/python -m pytest $(ARGS) tests/process/test_agents.py

lint: $(STAMP) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Check types
	$(BIN)/mypy

screenshots: $(STAMP) ## Take the pictures of the dashboard in docs/pictures (needs Chromium)
	$(BIN)/python -m tests.dashboard.screenshots

bench: $(STAMP) ## Measure against a FastAPI proxy and nginx
	$(BIN)/python -m bench $(ARGS)

prices: $(STAMP) ## Build the table of prices again and show what has changed
	rm -rf build/prices
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes --requirement packaging/locks/prices.lock --dest build/prices
	$(BIN)/python packaging/prices.py build/prices/*.whl

soak: $(STAMP) ## Run a mixed load for MINUTES, and fail if memory, descriptors, threads or tasks grow
	$(BIN)/python -m bench.soak --minutes $(MINUTES)

bench-usage: $(STAMP) ## Fill the usage tables with 10 million rows, and time the usage API
	$(BIN)/python -m bench.usage $(ARGS)

docs: $(SERVES) $(SITE) ## Build the documentation site, which the gateway serves under /docs/guide
	$(BIN)/python packaging/site.py prepare
	NO_MKDOCS_2_WARNING=1 $(DOCS_VENV)/bin/mkdocs build --quiet --strict --config-file packaging/mkdocs.yml
	$(BIN)/python packaging/site.py pack

binary: ## Build dist/bluesminds and the tarball
	@command -v objdump >/dev/null || { echo "error: objdump is missing: install binutils (apt install binutils)" >&2; exit 1; }
	@$(MAKE) --no-print-directory docs $(BUILD)
	$(BUILD_VENV)/bin/python packaging/build.py

deb: $(if $(wildcard dist/bluesminds-dir),,binary) ## Build the Debian package from the executable
	$(BUILD_VENV)/bin/python packaging/deb.py

selftest: $(STAMP) ## Test the built executable
	$(BIN)/python packaging/selftest.py
	$(BIN)/python -m pytest -m process tests/process/test_offline.py

lock: ## Pin the versions of all dependencies again (needs uv and npm)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml -o packaging/locks/run.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml --group dev --group build --group bench -c packaging/locks/run.lock -o packaging/locks/dev.lock
	uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate --group litellm -o packaging/locks/litellm.lock
	uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate --group langchain -o packaging/locks/langchain.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --group docs -o packaging/locks/docs.lock
	uv pip compile -q --no-deps --python-version 3.11 --generate-hashes --no-header --no-annotate --group prices -c packaging/locks/litellm.lock -o packaging/locks/prices.lock
	npm install --prefix $(NODE_CLIENTS) --package-lock-only
	npm install --prefix tests/process/agents --package-lock-only

clean: ## Remove all generated files
	rm -f bluesminds/web/docs/guide.zip
	rm -rf $(VENV) $(LITELLM_VENV) $(LANGCHAIN_VENV) $(BUILD_VENV) $(DOCS_VENV) $(NODE_CLIENTS)/node_modules tests/process/agents/node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
