# make demo   sets up and compares the encoders at hand on the embedded phantom
# make test   sets up and runs the tests
# make lint   ruff, mypy and the citation file
# make speed  the speed scripts (DATA=folder of images, see the README)

PYTHON ?= python3
BIN := .venv/bin
export CXRZOO_CACHE ?= $(CURDIR)/.cache
DATA ?= $(CXRZOO_DATA)

.PHONY: demo test lint speed clean

demo: .venv/installed
	$(BIN)/cxrzoo eval --benchmark phantom --budget 100 --budget 1000 --seeds 5 --protocol linear \
		--output demo

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/cffconvert --validate

speed: .venv/installed-dev
	$(BIN)/python benchmarks/speed/startup.py
	$(BIN)/python benchmarks/speed/probe.py
	$(BIN)/python benchmarks/speed/models.py
	$(BIN)/python benchmarks/speed/load.py
	$(BIN)/python benchmarks/speed/views.py
	$(BIN)/python benchmarks/speed/pretrain.py --data-root $(DATA)
	$(BIN)/python benchmarks/speed/bootstrap.py --loop 6
	$(BIN)/python benchmarks/speed/leaderboard.py
	$(BIN)/python benchmarks/speed/check.py
	$(BIN)/python benchmarks/speed/images.py --data-root $(DATA)

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ .venv/installed

clean:
	rm -rf .venv .cache demo build dist
