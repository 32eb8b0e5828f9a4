# make explain: set everything up and explain a photograph; make test: run every test; make fuzz MINUTES=30: made-up
# input; make kill: every command killed at twenty moments.
PYTHON ?= python3
PHOTO ?= data/samples/cat.jpg
VENV := .venv
BIN := $(VENV)/bin

MINUTES ?= 5
KILLS ?= 20

.PHONY: explain test lint types check fuzz kill clean

explain: $(VENV)/.installed
	$(BIN)/saywhy classify $(PHOTO) --methods gradcam,guided-gradcam,occlusion
	@echo "Open the .png named above: it shows why."

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

check: lint types test

fuzz: $(VENV)/.installed-dev
	end=$$(( $$(date +%s) + 60 * $(MINUTES) )); while [ $$(date +%s) -lt $$end ]; do \
	    SAYWHY_FUZZ=1 $(BIN)/python -m pytest -q -x tests/hostile/test_fuzz.py tests/hostile/test_data.py || exit 1; \
	done

kill: $(VENV)/.installed-dev
	SAYWHY_KILLS=$(KILLS) $(BIN)/python -m pytest -rP tests/hostile/test_kills.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) saywhy-out *.egg-info .pytest_cache .mypy_cache .ruff_cache
