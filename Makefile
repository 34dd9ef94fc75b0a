# What people type. Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
EXTRAS ?= dev
BIN := $(VENV)/bin
comma := ,
# one for each choice of extras: adding the GPU's libraries later is another set-up
READY := $(VENV)/.ready-$(subst $(comma),-,$(EXTRAS))
RUN := runs/quickstart
MARKS ?= not slow and not config and not job
CONFIG := configs/movielens/lcn.yaml
export TF_CPP_MIN_LOG_LEVEL ?= 2
export TF_USE_LEGACY_KERAS := 1

.PHONY: help setup quickstart test check clean

help:
	@grep -E '^[a-z]+:.*#' $(MAKEFILE_LIST) | sed -E 's/:[^#]*# /\t/'

setup: $(READY) # a virtual environment with everything in it; EXTRAS=dev,gpu for machines with GPUs

$(READY): setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	touch $@

quickstart: setup # MovieLens-1M -> records -> LCN trained, exported, evaluated -> runs/quickstart
	rm -rf $(RUN)
	$(BIN)/python -m pipelines.build_records --config $(CONFIG) --output $(RUN)/records
	$(BIN)/python -m pipelines.train --config $(CONFIG) --records $(RUN)/records --run_dir $(RUN)
	@echo "Look at $(RUN)/report/index.html; the model is in $(RUN)/export; metrics: $(RUN)/metrics.json"

test: setup # the default test suite; MARKS="not slow and not config" for whole jobs, too
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "$(MARKS)"

check: setup # ruff, types and tests; MARKS as for test
	tools/check.sh

clean: # what the other targets made
	rm -rf $(VENV) $(RUN) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
