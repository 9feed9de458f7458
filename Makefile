# The first that is Python 3.11 or later and can be run: a shim that cannot be run is passed over.
NEWEST_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c "$(NEWEST_ENOUGH)" 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OUT ?= outputs

export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo demo-egma demo-egma-ablations ablations curves space pretrain-phantom report-phantom real test stock-tools transformers-tests test-all coverage mutants docs lint types format metrics-env benchmarks clean

setup: $(READY)

# The constraints file pins the verified set, by version and not by hash: pip refuses hashes beside an editable project,
# and one platform's hashes would refuse the wheels of the others; pip is asked once, then only when the project's needs change.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later; install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	@echo "Python: $(PYTHON), $$($(PYTHON) -V)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip hatchling -c constraints.txt
	$(BIN)/python -m pip install --quiet torch torchvision -c constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@

demo: setup  ## render, pretrain, evaluate on unseen patients, write reports (25 minutes on two CPU cores)
	$(BIN)/cogaze demo --output_dir $(OUT)/demo

demo-egma: setup  ## the same for EGMA (10 minutes on two CPU cores)
	$(BIN)/cogaze experiment demo_egma --output_dir $(OUT)/demo-egma --only "L_EGF + L_EGM"

demo-egma-ablations: setup  ## and each of its losses alone (half an hour on two CPU cores)
	$(BIN)/cogaze experiment demo_egma --output_dir $(OUT)/demo-egma

ablations: setup  ## the rows of both papers' ablation tables, one seed each (an hour and a half on one CPU core)
	$(BIN)/cogaze experiment ablations --preset hour --output_dir $(OUT)/ablations

curves: setup  ## shares of the labels of other patients, from what `make pretrain-phantom` pretrained and from scratch
	$(BIN)/cogaze experiment label_curves --preset classification --output_dir $(OUT)/curves \
		--checkpoint $(OUT)/recipe/pretrain/full $(OUT)/recipe/pretrain/without-l-cls
	$(BIN)/cogaze experiment label_curves --preset segmentation --output_dir $(OUT)/curves \
		--checkpoint $(OUT)/recipe/pretrain/full

ifndef COGAZE_MODEL
space: export COGAZE_MODEL := $(OUT)/demo/cogaze-tiny-report
space: export COGAZE_CLASSIFIER := $(OUT)/demo/cogaze-tiny
endif
space: setup  ## the Space on what `make demo` wrote; COGAZE_MODEL names another report generator
	$(BIN)/python spaces/report_generation/app.py

pretrain-phantom: setup  ## the longer recipe, and beside it without gaze and without labels
	$(BIN)/cogaze experiment recipe --output_dir $(OUT)/recipe/pretrain

report-phantom: setup  ## report generators on what that pretrained: free text, without context, structured, prefix
	$(BIN)/cogaze experiment report_recipe --checkpoint $(OUT)/recipe/pretrain/full --output_dir $(OUT)/recipe/reports

real: setup  ## how far it carries to real radiographs: pretrained on renderings, on real ones, on both; beside baselines
	$(BIN)/cogaze experiment real --output_dir $(OUT)/real

test: setup
	$(BIN)/python -m pytest -m "not slow"

coverage: setup  ## what the quick tests run of the library
	$(BIN)/python -m pytest -m "not slow" --cov=modeling_cogaze --cov=processing --cov=training --cov-report=term

mutants: setup  ## changes one thing at a time in the code of [tool.mutmut] and counts what the tests notice (hours)
	$(BIN)/python -m pip install --quiet -e ".[mutants]" -c constraints.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m mutmut run $(MUTANTS)
	$(BIN)/python -m mutmut results

docs: setup  ## the documents as a site in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

stock-tools: setup  ## a table of what the stock tools do with the models: loading, quantising, peft, pipelines
	$(BIN)/python -m pytest tests/modeling_cogaze/test_stock_tools.py tests/processing/test_stock_processors.py -v --no-header -W ignore

transformers-tests: setup  ## transformers' own common tests, which pip fetches, over all models, configs and processors
	$(BIN)/python -m tests.transformers_common.source
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/transformers_common --no-header -W ignore

test-all: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## of the models and of what feeds them; the settings are in pyproject.toml
	$(BIN)/basedpyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

metrics-env: setup  ## the environment of the report metrics that need packages of their own
	$(BIN)/python -m training.metrics.reports.environment

benchmarks: setup
	for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf $(VENV) .venv-metrics $(OUT) build *.egg-info
