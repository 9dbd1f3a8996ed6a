PYTHON ?= python3
BIN := .venv/bin
IMAGES ?=
DOCUMENTS ?=

.PHONY: install test test-heavy bench-check lint options demo autoscale-demo clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint constraints-dev.txt --editable '.[dev]'
	touch $@

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 30 --durations-min 4

# What takes minutes each: kills by the dozen, large files, whole trainings, small versions of the benchmarks.
test-heavy: install
	PARQUETRY_HEAVY=1 $(BIN)/python -m pytest -m heavy --timeout 1200

# Whether ratios of speed have become worse than those that benchmarks/ratios.json holds. For a quiet machine.
bench-check: install
	$(BIN)/python -m benchmarks.check

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

options: install
	$(BIN)/python -m jobs.describe

demo: install
	$(BIN)/python -m jobs.demo --out demo $(if $(IMAGES),--images '$(IMAGES)') $(if $(DOCUMENTS),--documents '$(DOCUMENTS)')

# A cluster on this machine that grows under a run, and shrinks again: Ray's own autoscaler, real nodes, claimed GPUs.
autoscale-demo: install
	$(BIN)/python -m testing.autoscale_demo

clean:
	rm -rf .venv .swift-venv demo
