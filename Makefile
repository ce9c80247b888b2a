# One command for everything: `make help`.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Not ".": newer versions of ruff would set the examples of README.md in the format of modules.
CODE = mmgevent tests examples benchmarks setup.py

# What pip installed is noted in these files, so that it is done once.
INSTALLED = $(VENV)/.installed
TOOLS = $(VENV)/.tools
SOURCES = pyproject.toml setup.py $(wildcard mmgevent/_speedups/*.c)

.PHONY: help demo test pure lint format types bench clean
.DEFAULT_GOAL := help

help:  ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## install into .venv, and count the words of Python's own library
	@echo '$$ mmg-run examples/topwords.py "PYTHON-LIBRARY/**/*.py"'
	@$(VENV)/bin/mmg-run examples/topwords.py "$$($(RUN) -c 'import os; print(os.path.dirname(os.__file__))')/**/*.py"
	@echo
	@echo 'now try: $(VENV)/bin/mmg-run examples/humpty.py, or read README.md'

test: $(TOOLS)  ## run the tests
	$(RUN) -m pytest

pure: $(TOOLS)  ## run the tests without the C core
	MMGEVENT_PURE=1 $(RUN) -m pytest

lint: $(TOOLS)  ## check style and format
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

format: $(TOOLS)  ## put the code in format
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

types: $(TOOLS)  ## check types
	$(VENV)/bin/mypy

bench: $(TOOLS)  ## compare with the program one would write by hand (some minutes)
	$(RUN) -m benchmarks.wordcount
	$(RUN) -m benchmarks.inverted_index

clean:  ## remove what was made
	rm -rf $(VENV) build .ci/venvs benchmarks/.corpus *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find mmgevent -name '*.so' -delete

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(VENV)/bin/python $(SOURCES)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(TOOLS): $(VENV)/bin/python $(SOURCES)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	@touch $@ $(INSTALLED)
