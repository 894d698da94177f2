# Every target installs what it needs into .venv; nothing else has to be on the machine but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
STAMP := $(VENV)/.installed
# Text is UTF-8 whatever the locale says: of the folder's own name, too, which a locale without it cannot write.
export PYTHONUTF8 := 1

.DEFAULT_GOAL := help
.PHONY: help install demo demo-migration test test-full test-apache check changelog format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make install: no $(PYTHON) on the PATH; install Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("qts_data needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) scripts/install.py $(VENV)
	@touch $@

install: $(STAMP) ## Create .venv with the pinned dependencies

demo: $(STAMP) ## Ticks become bars in a real PostgreSQL: start, migrate, load, query
	@$(BIN)/qts-data demo

demo-migration: $(STAMP) ## A small book moves from a Google Sheets stand-in to the database, with the proof
	@$(BIN)/qts-data migrate demo

N ?= 2
PYTEST = $(BIN)/python -m pytest -n $(N) $(PYTEST_ARGS) $(T)

test: $(STAMP) ## Run the tests, or those of T=tests/...; N=2 processes (QTS_TEST_DATABASE_URL: another server)
	$(PYTEST)

test-full: export QTS_TEST_FULL = 1
test-full: test ## Run the tests with the full form of the long ones

test-apache: $(STAMP) ## Run the test suite on TimescaleDB Apache edition (Debian packages; as root)
	@scripts/apache_server.sh status >/dev/null 2>&1 && stop=true || stop="scripts/apache_server.sh stop"; \
	url=$$(scripts/apache_server.sh start) && { \
		QTS_TEST_DATABASE_URL=$$url $(PYTEST); status=$$?; $$stop; exit $$status; }

check: $(STAMP) ## Lint, format, types, import rules
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m scripts.check_types
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as check; check()'

changelog: $(STAMP) ## Move the fragments of changelog.d into CHANGELOG.md, as VERSION=...
	$(BIN)/python -m towncrier build --yes --version $(or $(VERSION),Unreleased)

format: $(STAMP) ## Format the code and sort imports
	$(BIN)/python -m ruff check --fix-only .
	$(BIN)/python -m ruff format .

lock: $(STAMP) ## Pin the dependencies anew
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## Stop the servers of dev and demo; remove their data, the virtual environment and caches
	@test ! -x $(BIN)/qts-data || $(BIN)/qts-data dev down --delete
	@test ! -x $(BIN)/qts-data || test ! -e .qts/demo || QTS_DEV_DIRECTORY=.qts/demo $(BIN)/qts-data dev down --delete
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
