# Every target sets itself up: a virtual environment in .venv, installed once and again only when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0

.PHONY: demo test matrix lint bench clean

demo: $(VENV)/.installed
	$(BIN)/python examples/digits.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

matrix: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m column --matrix

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# TorchOpt is only measured beside; without it, its column stays empty.
bench: $(VENV)/.installed
	-$(BIN)/python -m pip install -q torchopt
	$(BIN)/python benchmarks/blocks.py
	$(BIN)/python benchmarks/executors.py
	$(BIN)/python benchmarks/classes.py
	$(BIN)/python benchmarks/first_steps.py
	$(BIN)/python benchmarks/functional.py
	$(BIN)/python benchmarks/imports.py
	$(BIN)/python benchmarks/readme.py

clean:
	rm -rf $(VENV)

# torch comes first and pinned, so that no dependency pulls in another build of it.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q $(TORCH)
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@
