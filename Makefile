# Each target is one line to a real tool; the README gives the same lines for those without make.
PYTHON ?= python3
BIN := .venv/bin
ROOT ?=
DIST ?=
SEED ?= 0
CASES ?= 5000
# The library's own tests, without those of the examples, the benchmarks, the site and other tools.
LIBRARY := icasa tests $(addprefix --ignore=tests/,examples benchmarks docs test_matrix.py)

.PHONY: demo test lint types docs bench bench-check rivals dist versions sanitize fuzz coverage \
	mutation
demo: .venv/examples
	$(BIN)/python -m examples.ser.demo $(if $(ROOT),--ravdess "$(ROOT)")

test: .venv/test
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

lint: .venv/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/test
	$(BIN)/mypy

docs: .venv/test
	$(BIN)/sphinx-build --fail-on-warning --keep-going -b html docs docs/_build/html

bench: .venv/benchmarks
	$(BIN)/python -m benchmarks

rivals: .venv/benchmarks .venv/rivals
	$(BIN)/pip install --quiet --no-deps fightingcv-attention==1.0.0 channel-attention==0.0.1
	$(BIN)/python -m benchmarks.rivals

bench-check: .venv/benchmarks
	$(BIN)/python -m benchmarks.check

dist: .venv/dist
	PATH="$(CURDIR)/$(BIN):$$PATH" .ci/dist

versions:
	$(PYTHON) .ci/versions.py $(if $(DIST),--dist "$(DIST)")

sanitize: .venv/test
	.ci/sanitize $(BIN)/python

fuzz: .venv/test
	$(BIN)/python -m tests.fuzz --cases $(CASES) --seed $(SEED)

coverage: .venv/coverage
	$(BIN)/python -m pytest --cov $(LIBRARY)

mutation: .venv/mutation
	$(BIN)/python -m tests.mutation

.venv/%: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[$*]"
	touch $@
