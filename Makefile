# Every target sets up what it needs in .venv; nothing has to be installed by hand.
#   make demo   see it work (3 minutes)
#   make test   lint and the whole test suite
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

.PHONY: demo test lint wheel clean

demo: $(VENV)/.$(LOCK)
	$(BIN)/larq-nobn demo --out $(OUT)

test: lint $(VENV)/.jax
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.$(LOCK)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(VENV)/.$(LOCK)
	$(BIN)/python -m build --wheel --no-isolation

$(VENV)/.$(LOCK): requirements/$(LOCK).txt setup.py
	@test -n "$(PYTHON)" || { echo "Python 3.10, 3.11 or 3.12 is needed; make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/$(LOCK).txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The exported train step runs under jax, which cannot share TensorFlow's packages.
$(VENV)/.jax: $(VENV)/.$(LOCK) requirements/jax.txt
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(PYTHON) -m venv --clear $(VENV)/jax && \
		$(VENV)/jax/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/jax.txt; \
	fi
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
