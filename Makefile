# make demo   sets up and compares the encoders at hand on the embedded phantom
# make test   sets up and runs the tests
# make lint   ruff, mypy and the citation file
# make speed  the speed scripts (DATA=folder of images, see the README)
# make zoo DATA=DIR      trains the encoders of tier lite below encoders/: hours
# make results DATA=DIR  evaluates the zoo on real radiographs and writes benchmarks/results: hours

PYTHON ?= python3
BIN := .venv/bin
export CXRZOO_CACHE ?= $(CURDIR)/.cache
DATA ?= $(CXRZOO_DATA)

TRAINED := moco-imagenet moco-cxr moco-imagenet-then-cxr supervised-imagenet-then-moco-cxr \
	barlow-cxr supervised-imagenet-then-barlow-cxr
COMPARED := supervised-imagenet moco-imagenet moco-cxr supervised-imagenet-then-moco-cxr
LINEAR := --seeds 5 --protocol linear --data-root $(DATA) --output benchmarks/results

.PHONY: demo test lint speed zoo results needs-data clean

demo: .venv/installed
	$(BIN)/cxrzoo eval --benchmark phantom --budget 100 --budget 1000 --seeds 3 --protocol linear \
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

# One after the other: each takes both cores. An interrupted one goes on where it stopped.
zoo: needs-data .venv/installed-dev
	set -e; for name in $(TRAINED); do \
		$(BIN)/cxrzoo pretrain $$name --data-root $(DATA) --output encoders --watch nlmtb; \
	done

results: needs-data .venv/installed-dev
	$(BIN)/cxrzoo eval -b kermany $(LINEAR) --budget 50 --budget 100 --budget 250 --budget 500 \
		--budget 1000 --budget 2500 --budget full
	$(BIN)/cxrzoo eval -b nih14 $(LINEAR) --budget 50 --budget 100 --budget 250 --budget 500 \
		--budget 1000 --budget full
	$(BIN)/cxrzoo eval -b nlmtb -b covid19 $(LINEAR) --budget 50 --budget 100 --budget 250 \
		--budget full
	$(BIN)/cxrzoo eval $(COMPARED:%=-e %) -b kermany --budget 100 --budget 1000 \
		--seeds 3 --protocol finetune --data-root $(DATA) --output benchmarks/results
	$(BIN)/cxrzoo eval $(COMPARED:%=-e %) -b nlmtb --budget 100 --budget full \
		--seeds 3 --protocol finetune --data-root $(DATA) --output benchmarks/results
	$(BIN)/python benchmarks/write_results.py --data-root $(DATA)

needs-data:
	@test -d "$(DATA)" || { echo "DATA=folder of the images is missing, or no folder: '$(DATA)'" >&2; exit 2; }

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
