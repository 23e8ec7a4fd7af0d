# Each target sets up what it needs; a second run reuses it.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
export OMP_NUM_THREADS ?= 1
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: setup demo test slow lint bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml tools/constraints.txt
	@echo "setting up $(VENV) (minutes; the time of packages is not the demo's)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip "setuptools>=77" wheel
	$(BIN)/pip install -q "$(TORCH)"
	$(BIN)/pip install -q -c tools/constraints.txt -e ".[torch,search,dask,dev]"
	$(BIN)/python tools/link.py
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py --output out/demo

test: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

slow: $(STAMP)
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/link.py
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks all

docs: $(STAMP)
	$(BIN)/pip install -q -c tools/constraints.txt -e ".[docs]"
	$(BIN)/python -m mkdocs build --quiet

clean:
	rm -rf $(VENV) .link build dist *.egg-info out
