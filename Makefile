# Every target sets up what it needs in .venv; nothing has to be installed by hand.
#   make demo   see it work (3 minutes)
#   make quick  lint and the tests that take seconds (some minutes): for every change
#   make test   lint and the whole test suite
#   make docs   the guide, into build/site
# Another Python: make test PYTHON=python3.10. Python 3.12 takes the set of packages
# with TensorFlow 2.19 and tf_keras; so does make test LOCK=tf219. Python 3.13 takes that
# with TensorFlow 2.21, which has neither larq-zoo nor Larq Compute Engine.

ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.10 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& { echo $$p; break; }; done)
endif
VERSION := $(if $(PYTHON),$(shell \
	$(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null))
ifeq ($(filter 3.10 3.11 3.12 3.13,$(VERSION)),)
ifneq ($(MAKECMDGOALS),clean)
$(error Python must be 3.10 to 3.13. Received: $(if $(PYTHON),$(PYTHON)$(if \
	$(VERSION), (Python $(VERSION)),, which does not run),none on the PATH). Fix: \
	make PYTHON=/path/to/python3.11)
endif
endif
LOCK ?= $(if $(filter 3.13,$(VERSION)),tf221,$(if $(filter 3.12,$(VERSION)),tf219,tf215))
VENV ?= .venv
BIN := $(VENV)/bin
# Named by what is in it: another Python or lock sets up anew.
READY := $(VENV)/.$(LOCK)-py$(VERSION)
OUT ?= runs/demo
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo quick test lint wheel dist docs docs-plots notebooks check-h100 clean

demo: $(READY)
	$(BIN)/larq-nobn demo --out $(OUT)

quick: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test: lint $(VENV)/.jax
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation

# What goes onto PyPI, checked: see RELEASING.md.
dist: $(VENV)/.release
	rm -rf dist
	$(VENV)/release/bin/python -m build --no-isolation
	$(VENV)/release/bin/twine check --strict dist/*

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open build/site/index.html"

# The plots on the page of the method, measured anew (some ten minutes).
docs-plots: $(READY)
	$(BIN)/python docs/plots.py

# The notebooks, run anew: the site shows what they print.
notebooks: $(READY)
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --inplace --execute \
		--ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False \
		docs/notebooks/*.ipynb

$(READY): requirements/$(LOCK).txt setup.py
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/$(LOCK).txt
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/micro.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# Compiles an exported training for an H100 where there is none; FOLDER is one that
# larq-nobn offload wrote, by default of a small network.
check-h100: $(VENV)/.h100
	@test -n "$(FOLDER)" || test -e build/h100/description.json || \
		$(BIN)/larq-nobn offload training/digits_reactnet18.py --out build/h100 --set precision=mixed_bfloat16
	$(VENV)/h100/bin/python benchmarks/check_h100.py $(or $(FOLDER),build/h100)

# Exported trainings run under jax, which cannot share TensorFlow's packages: under an
# older one, and a newer one where Python 3.12 is, or where JAX_PYTHON names it.
JAX312 = for p in $(JAX_PYTHON) $(PYTHON) python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done

$(VENV)/.jax: $(READY) requirements/jax.txt requirements/jax312.txt
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		$(PYTHON) -m venv --clear $(VENV)/jax && \
		$(VENV)/jax/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/jax.txt; \
	fi
	python=$$($(JAX312)); if test -n "$$python"; then \
		$$python -m venv --clear $(VENV)/jax312 && \
		$(VENV)/jax312/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/jax312.txt; \
	fi
	touch $@

$(VENV)/.h100: $(READY) requirements/jax312.txt requirements/h100.txt
	python=$$($(JAX312)); test -n "$$python" || { echo "Python 3.12 is needed"; exit 2; }; \
	$$python -m venv --clear $(VENV)/h100 && \
	$(VENV)/h100/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/h100.txt
	touch $@

$(VENV)/.release: requirements/release.txt
	$(PYTHON) -m venv --clear $(VENV)/release
	$(VENV)/release/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/release.txt
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
