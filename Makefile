# make quickstart   set up if need be, then meta-train and show the result
# make test         set up if need be, then lint, type checks, documentation and all tests
# make docs         the documentation, in build/docs; docs-serve shows it while it is written
PYTHON ?= python3
BIN := .venv/bin
export NO_MKDOCS_2_WARNING := 1  # a page of text at each build

.PHONY: setup quickstart test check docs docs-serve format bench clean

setup: .venv/installed

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,docs]'
	touch $@

quickstart: setup
	$(BIN)/outerloop train quickstart

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mkdocs build --strict

docs: setup
	$(BIN)/mkdocs build --strict

docs-serve: setup
	$(BIN)/mkdocs serve

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
