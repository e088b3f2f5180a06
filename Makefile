# What people and CI type. Each target makes .venv first when it is not there.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: demo test test-cluster chaos lint bench bench-search bench-gpu docs clean

demo: .venv/.installed
	$(BIN)/unlearn-sweep run search_spaces/smoke.yaml

test: .venv/.installed-test
	$(BIN)/pytest

test-cluster: .venv/.installed-test  # part of `test` too
	$(BIN)/pytest -m cluster

chaos: .venv/.installed-test
	$(BIN)/python benchmarks/chaos.py $(or $(N),20)

lint: .venv/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/warm_worker.py
	$(BIN)/python benchmarks/shared_pass.py
	$(BIN)/python benchmarks/one_pass.py

bench-search: .venv/.installed
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/scale.py

bench-gpu: .venv/.installed  # TOFU=DIR: rows of TOFU's files
	benchmarks/gpu.sh $(if $(TOFU),"$(TOFU)")

docs: .venv/.installed
	$(BIN)/python -m orchestrator.reference.sweep_file > docs/reference.md
	$(BIN)/python -m orchestrator.reference.design_space > docs/design-space.md
	$(BIN)/python -m orchestrator.reference.metrics_page > docs/metrics.md

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/.installed-test: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@
