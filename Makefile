# make paper-figures [SCALE=demo]   figures and tables; "demo" trains everything on built-in data
# make test | test-quick            all tests | those without processes and data
# make lint | docs | bench          ruff and mypy | site in build/site | benchmark table
# make record                       refresh results/recorded from results/runs
# make constraints                  pin the packages that are installed now

SCALE ?= paper
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install test test-quick lint docs bench paper-figures record constraints clean

help:
	@sed -n '1,5s/^# //p' Makefile

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[paper,dev]'
	touch $@

# Files of tests run side by side, each process with one thread.
test: export OMP_NUM_THREADS := 1
test: install
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# Tests of real data skip themselves where there is none.
test-quick: export OMP_NUM_THREADS := 1
test-quick: export CONVEXINIT_DATA := none
test-quick: install
	$(RUN) -m pytest tests/library tests/paper -m 'not slow' --numprocesses 2 --dist loadfile

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

# Without the theme's message about its successor.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/docs
	$(VENV)/bin/mkdocs build --strict --quiet

$(VENV)/docs: $(VENV)/installed
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

bench: install
	$(RUN) scripts/benchmark.py

ifeq ($(SCALE),demo)
paper-figures: install
	$(RUN) -m convexinit_paper.demo
else ifeq ($(SCALE),paper)
paper-figures: install
	$(RUN) -m convexinit_paper.figures
else
paper-figures:
	@echo "SCALE must be paper or demo; got $(SCALE)" >&2; exit 2
endif

record: install
	$(RUN) scripts/record_runs.py

# Without the suffix of a build, such as +cpu, a version fits every machine's.
constraints: install $(VENV)/docs
	$(VENV)/bin/pip freeze --exclude-editable | grep -v '@' | sed 's/+.*//' > constraints.txt

clean:
	rm -rf $(VENV) results/demo .pytest_cache .mypy_cache .ruff_cache
