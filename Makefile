# Every target installs what it needs into .venv; nothing else has to be on the machine but Python and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo demo-migration test test-full test-apache check format lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("qts_data needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
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
	@url=$$(scripts/apache_server.sh start) && { \
		QTS_TEST_DATABASE_URL=$$url $(PYTEST); status=$$?; scripts/apache_server.sh stop; exit $$status; }

check: $(STAMP) ## Lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and sort imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

lock: $(STAMP) ## Pin the dependencies anew
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.lock

clean: ## Remove the virtual environment, caches and the development server's data
	@test ! -x $(BIN)/qts-data || $(BIN)/qts-data dev down --delete
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
