# make paper-figures [SCALE=demo]   figures and tables; "demo" trains everything on built-in data
# make test | lint | bench          tests | ruff and mypy | benchmark table
# make record                       refresh results/recorded from results/runs
# make constraints                  pin the packages that are installed now

SCALE ?= paper
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help install test lint bench paper-figures record constraints clean

help:
	@sed -n '1,4s/^# //p' Makefile

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Files of tests run side by side, each process with one thread.
test: export OMP_NUM_THREADS := 1
test: install
	$(RUN) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

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

constraints: install
	$(VENV)/bin/pip freeze --exclude-editable --exclude torch --exclude torchvision \
		| grep -v '@' > constraints.txt

clean:
	rm -rf $(VENV) results/demo .pytest_cache .mypy_cache .ruff_cache
