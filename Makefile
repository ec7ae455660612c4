# make quickstart, make test; make lint for what .ci/run checks before it.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: quickstart lint test test-configs docs clean

quickstart: $(VENV)/installed
	$(BIN)/python -m experiments.run --workdir runs/digits \
	  --config configs/roth2024fantastic/digits.py:quick

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests

# Every config runs its tiny variant (the suite runs one per protocol).
test-configs: $(VENV)/installed-test
	KT_JAX_ALL_CONFIGS=1 $(BIN)/python -m pytest -n 2 tests/configs_test.py

$(VENV)/installed: setup.py kt_jax/__init__.py
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(not (3, 11) <= v <= (3, 13) and "kt_jax needs Python 3.11 to 3.13; this is %d.%d. Set PYTHON=python3.12 or the like." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --strict -f - < docs/mkdocs.yml

clean:
	rm -rf $(VENV) runs build dist site *.egg-info .ruff_cache
