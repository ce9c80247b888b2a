# One command for everything: `make help`.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
# Not ".": newer versions of ruff would format the examples in README.md as modules.
CODE = mmgevent tests examples benchmarks setup.py

# Tests that do not depend on the core; `make pure` leaves them out. The tests of trust run a cluster of
# workers with and without it.
COREFREE = access cli engine driver/test_blocked.py driver/test_watching.py test_benchmarks.py test_docs.py \
	integration/test_bad_input.py integration/test_cluster_files.py integration/test_debugging.py \
	integration/test_mincemeat.py integration/test_node_examples.py integration/test_nodes.py \
	integration/test_offering.py integration/test_output.py integration/test_pilots.py integration/test_ssh.py \
	test_effort.py test_packaging.py test_types.py trust

# Tests run side by side in several processes, since most of them wait (tests/conftest.py says in how many).
# `make test SIDE_BY_SIDE=` runs them one after another, which is easier to read and to debug.
SIDE_BY_SIDE = -n auto --dist worksteal

# Byte code is kept, whatever the environment says: without it a process that a test starts takes twice as long.
unexport PYTHONDONTWRITEBYTECODE

# The editable install is a line in a .pth file ("compat"): the usual import hook costs 8 ms per process.
# These files record what pip has installed, so that it runs once.
INSTALLED = $(VENV)/.installed
TOOLS = $(VENV)/.tools
SOURCES = pyproject.toml setup.py $(wildcard mmgevent/_speedups/*.[ch])

.PHONY: help demo test test-long test-all pure sanitize lint format types bench fuzz soak clean
.DEFAULT_GOAL := help

help:  ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(INSTALLED)  ## install into .venv, and count the words of Python's own library
	@echo '$$ mmg-run examples/topwords.py "PYTHON-LIBRARY/**/*.py"'
	@$(VENV)/bin/mmg-run examples/topwords.py "$$($(RUN) -c 'import os; print(os.path.dirname(os.__file__))')/**/*.py"
	@echo
	@echo 'now try: $(VENV)/bin/mmg-run examples/humpty.py, or read README.md'

test: $(TOOLS)  ## run the tests but the long ones (some five minutes)
	$(RUN) -m pytest $(SIDE_BY_SIDE) -m 'not long'

test-long: $(TOOLS)  ## run the long ones; MMGEVENT_TEST_SEEDS=0.1 tries a tenth of what is drawn at random
	$(RUN) -m pytest $(SIDE_BY_SIDE) -m long

test-all: $(TOOLS)  ## run all tests, with all seeds (most of an hour)
	$(RUN) -m pytest $(SIDE_BY_SIDE)

pure: $(TOOLS)  ## run the tests but the long ones without the C core
	MMGEVENT_PURE=1 $(RUN) -m pytest $(SIDE_BY_SIDE) -m 'not long' $(addprefix --ignore=tests/,$(COREFREE))

sanitize: $(TOOLS)  ## run the tests of the C core with sanitizers of addresses and of undefined behaviour
	sh tests/sanitize.sh "$(abspath $(RUN))"

lint: $(TOOLS)  ## check style and format
	$(VENV)/bin/ruff check $(CODE)
	$(VENV)/bin/ruff format --check $(CODE)

format: $(TOOLS)  ## put the code in format
	$(VENV)/bin/ruff check --fix $(CODE)
	$(VENV)/bin/ruff format $(CODE)

types: $(TOOLS)  ## check types
	$(VENV)/bin/mypy

bench: $(TOOLS)  ## measure, briefly (two or three minutes); docs/performance.md has the whole
	$(RUN) -m benchmarks.corpus --size 20MB --rounds 3
	$(RUN) -m benchmarks.scale connections --workers 1000 --hold 16 --rounds 3
	$(RUN) -m benchmarks.scale joins --workers 400
	$(RUN) -m benchmarks.scale items --items 10000 --rounds 3
	$(RUN) -m benchmarks.scale latency --jobs 50
	$(RUN) -m benchmarks.scale overhead --items 60 --rounds 2
	$(RUN) -m benchmarks.scale growth --size 4MB --times 1,4
	$(RUN) -m benchmarks.simulation --workers 100,1000,10000
	$(RUN) -m pytest benchmarks/micro -o addopts= --benchmark-columns=min,median --benchmark-max-time=0.05 --benchmark-min-rounds=3

soak: $(TOOLS)  ## let jobs, workers and drivers come and go on one server, one hour; SOAK="--seconds 60" is shorter
	$(RUN) -m tests.trust.soak --seconds 3600 $(SOAK)

fuzz: $(TOOLS)  ## look for bytes that break a parser, one minute per parser; FUZZ="--seconds 600 frames" looks longer
	$(RUN) -m tests.trust.fuzz_engine --seconds 60 $(FUZZ)

clean:  ## remove what was made
	rm -rf $(VENV) build .ci/venvs benchmarks/.corpus benchmarks/.results *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find mmgevent -name '*.so' -delete

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): $(VENV)/bin/python $(SOURCES)
	$(RUN) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e .
	@touch $@

$(TOOLS): $(VENV)/bin/python $(SOURCES)
	$(RUN) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e '.[test,lint]'
	@$(RUN) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e '.[fuzz]' || echo 'no atheris here: tests that need it are skipped'
	@touch $@ $(INSTALLED)
