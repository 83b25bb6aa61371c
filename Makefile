# Every target sets up what it needs in .venv; nothing has to be installed by hand.
#   make demo   see it work (3 minutes)
#   make test   lint and the whole test suite
#   make docs   the guide, into build/site
# Another Python: make test PYTHON=python3.10. Python 3.12 takes the set of packages
# with TensorFlow 2.18 and tf_keras; so does make test LOCK=tf218.

PYTHON ?= $(shell for p in python3.11 python3.10 python3.12 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)
LOCK ?= $(shell $(PYTHON) -c 'import sys; print("tf215" if sys.version_info < (3, 12) else "tf218")')
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test lint wheel docs docs-plots check-h100 clean

demo: $(VENV)/.$(LOCK)
	$(BIN)/larq-nobn demo --out $(OUT)

test: lint $(VENV)/.jax
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.$(LOCK)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(VENV)/.$(LOCK)
	$(BIN)/python -m build --wheel --no-isolation

docs: $(VENV)/.$(LOCK)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open build/site/index.html"

# The plots on the page of the method, measured anew (some ten minutes).
docs-plots: $(VENV)/.$(LOCK)
	$(BIN)/python docs/plots.py

$(VENV)/.$(LOCK): requirements/$(LOCK).txt setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed; make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/$(LOCK).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Compiles an exported training for an H100 where there is none; FOLDER is one that
# larq-nobn offload wrote, by default of a small network.
check-h100: $(VENV)/.h100
	@test -n "$(FOLDER)" || test -e build/h100/description.json || \
		$(BIN)/larq-nobn offload training/digits_reactnet18.py --out build/h100 --set precision=mixed_bfloat16
	$(VENV)/h100/bin/python benchmarks/check_h100.py $(or $(FOLDER),build/h100)

# Exported trainings run under jax, which cannot share TensorFlow's packages: under an
# older one, and a newer one where Python 3.12 is.
JAX312 = for p in $(PYTHON) python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done

$(VENV)/.jax: $(VENV)/.$(LOCK) requirements/jax.txt requirements/jax312.txt
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(PYTHON) -m venv --clear $(VENV)/jax && \
		$(VENV)/jax/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/jax.txt; \
	fi
	python=$$($(JAX312)); if test -n "$$python"; then \
		$$python -m venv --clear $(VENV)/jax312 && \
		$(VENV)/jax312/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/jax312.txt; \
	fi
	touch $@

$(VENV)/.h100: $(VENV)/.$(LOCK) requirements/jax312.txt requirements/h100.txt
	python=$$($(JAX312)); test -n "$$python" || { echo "Python 3.12 is needed"; exit 2; }; \
	$$python -m venv --clear $(VENV)/h100 && \
	$(VENV)/h100/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/h100.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
