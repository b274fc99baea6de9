# Everything runs in one virtual environment, made on first use and again when its requirements change.

PYTHON ?= python3
VENV ?= .venv
JOBS ?=
RESULTS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
# Whole files, so that no worker makes what another has made for the tests of a file.
PARALLEL := -n auto --dist loadfile
# Tests start many processes: where no bytecode is kept, each of them compiles the package anew.
test slow check: export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install bench reference docs pictures test slow check speed golden constraints clean

help: ## Say what there is to make.
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20
	@echo
	@echo "Variables: PYTHON=$(PYTHON) (makes the environment), VENV=$(VENV), JOBS=N (worker processes of bench)," \
	  "RESULTS=FOLDER (for pictures)"

install: $(STAMP) ## Make the environment in .venv: the package, editable, with everything the tests need.

bench: $(STAMP) ## Run the mission, the default matrix, into results/ (resumes if interrupted) and write report/index.html.
	$(BIN)/bayesprune run --out results $(if $(JOBS),--jobs $(JOBS))
	$(BIN)/bayesprune report results --out report
	@echo "Open $(CURDIR)/report/index.html in a browser."

reference: $(STAMP) ## Compute the reference results that are missing, and pack them into reports/reference/.
	$(BIN)/bayesprune reference --out reference-results $(if $(JOBS),--jobs $(JOBS))

docs: $(DOCS_STAMP) ## Make the documentation in docs/_build/html; warnings are errors, and links inside are followed.
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "Open $(CURDIR)/docs/_build/html/index.html in a browser."

pictures: $(STAMP) ## Draw the picture of README from the reference results, or from those in RESULTS.
	cd docs && $(abspath $(BIN))/python -m generators.pictures mission.svg $(abspath $(RESULTS))

test: $(STAMP) ## Run the tests, a file at a time on each core.
	$(BIN)/pytest $(PARALLEL)

slow: $(STAMP) ## Run the tests that take longer.
	$(BIN)/pytest -m slow

check: $(STAMP) ## Everything a change must pass: ruff, pyright, import-linter, the tests.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/pytest $(PARALLEL)

speed: $(STAMP) ## Run the benchmarks of the suite's own speed.
	$(BIN)/pytest --rootdir bench/speed bench/speed

golden: $(STAMP) ## Rewrite the golden cells; refuses where a value moved without a new revision.
	$(BIN)/python tests/golden.py --write

constraints: $(DOCS_STAMP) ## Write the installed versions to constraints.txt.
	@$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip > $(VENV)/frozen.txt
	@{ head -n 1 constraints.txt; LC_ALL=C sort -f $(VENV)/frozen.txt; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt
	@touch $(STAMP) $(DOCS_STAMP)

clean: ## Remove build products and caches; .venv, results and report stay.
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .benchmarks .hypothesis .import_linter_cache docs/_build docs/generated
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "bayesprune needs Python 3.11 or newer, but there is no" \
	  "$(PYTHON); name one with make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("bayesprune needs Python 3.11 or newer, but \
	$(PYTHON) is %d.%d; name another with make PYTHON=/path/to/python" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@
