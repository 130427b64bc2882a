# make demo         propose on the example photos and draw the best finds
# make test         run all the tests
# make test-fast    run those that are quick and need no other project, in two processes
# make check        formatting, lint and types
# make bench        run the benchmarks, which write docs/benchmarks.md
# make clean        remove what the others made, the virtual environment too
#
# Each makes what it needs: a virtual environment in .venv with the versions of constraints.txt, installed again only
# where pyproject.toml, constraints.txt or the C sources changed. PYTHON is the interpreter that it is made with.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PEER := ../shared/tools/install-peer-torchvision
KERNELS := setup.py $(wildcard src/objectness/kernels/cpu/*.[ch])

# Tests without kernels would skip what they are for, and pass. To run them so on purpose: make test OBJECTNESS_KERNELS=off
test test-fast: export OBJECTNESS_KERNELS ?= require

.PHONY: demo test test-fast check bench clean peer
.NOTPARALLEL:

demo: .venv/.demo-installed
	$(BIN)/objectness propose examples/photos --out demo/proposals.jsonl --draw demo --overwrite
	@echo "Look at demo/*.jpg: on each photo the best finds, ten at most, each with its score."
	@echo "demo/proposals.jsonl has all proposals as numbers, one line of JSON for each photo."

test: .venv/.dev-installed peer
	$(BIN)/python -m pytest --durations=15
	@echo "Lines that begin with SKIPPED, if there are any above, say which tests were left out and why."

test-fast: .venv/.dev-installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow" --ignore tests/peer --durations=15

# torchvision, with which some tests and benchmarks compare, where the tool that installs it stands beside the checkout.
peer: .venv/.dev-installed
	@if [ ! -x $(PEER) ]; then \
	    echo "Left out: what compares with torchvision ($(PEER) is not there to install it)."; \
	elif ! $(PEER) $(BIN)/python; then \
	    echo "Left out: what compares with torchvision ($(PEER) failed, see above)."; \
	fi

check: .venv/.dev-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/.bench-installed peer
	$(BIN)/python bench/report.py --out docs/benchmarks.md
	$(BIN)/python bench/recall.py
	$(BIN)/python bench/training_step.py

clean:
	rm -rf .venv build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src -name '*.egg-info' -prune -exec rm -rf {} +
	rm -f src/objectness/kernels/cpu/_native*
	find src tests bench examples experiments -name __pycache__ -prune -exec rm -rf {} +

# The project itself is installed in place, so that changes of the source need no installation. setuptools comes first
# and build isolation is off, so that what builds the package is pinned too.
.venv/.demo-installed: pyproject.toml constraints.txt $(KERNELS) | .venv/.made
	@echo "Installing what Objectness needs into .venv ..."
	@$(PIP) install --constraint constraints.txt setuptools
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable .
	@touch $@

.venv/.dev-installed: pyproject.toml constraints.txt $(KERNELS) | .venv/.made
	@echo "Installing what Objectness and its development need into .venv ..."
	@$(PIP) install --constraint constraints.txt setuptools
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch .venv/.demo-installed $@

.venv/.bench-installed: .venv/.dev-installed
	@echo "Installing what the benchmarks need beside it into .venv ..."
	@$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[bench]'
	@touch $@

.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is not Python 3.11 or newer; name another with: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@
