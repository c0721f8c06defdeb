# make quickstart   set up if need be, then meta-train and show the result
# make test         set up if need be, then lint, type checks and all tests
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test check format bench clean

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

quickstart: setup
	$(BIN)/outerloop train quickstart

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/outerloop bench inner-loop
	$(BIN)/outerloop bench pipeline
	$(BIN)/outerloop bench episodes
	$(BIN)/outerloop bench atari

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache
