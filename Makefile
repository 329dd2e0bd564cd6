# The four doors. Each sets up .venv by itself, and installs only when pyproject.toml changed.
PYTHON ?= python3
VENV   := .venv/bin
export DAGSTER_HOME := $(CURDIR)
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: setup demo test ui

setup: .venv/installed

# torch comes first and by range: without it pip would bring gigabytes of CUDA that a machine
# without a GPU never uses. On a GPU host install the CUDA build of torch into .venv before `make`.
.venv/installed: pyproject.toml
	@test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/python -m pip install --quiet --disable-pip-version-check 'torch>=2.11,<2.14'
	$(VENV)/python -m pip install --quiet --disable-pip-version-check --editable '.[all]' --group dev
	@touch $@

demo: setup
	$(VENV)/python -m pipelines run experiments/miniature.toml

test: setup
	$(VENV)/ruff check .
	$(VENV)/mypy
	OMP_NUM_THREADS=1 $(VENV)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

ui: setup
	$(VENV)/python -m pipelines ui experiments/miniature.toml
