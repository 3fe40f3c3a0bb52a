# Every check and the demo, with their set-up. Needs Python 3.11+ with pip, and make; nothing else.
#
#   make PYTHON=python3.12 test    another Python
#   make PIP_FLAGS= test           show what pip does

PYTHON ?= python3
PIP_FLAGS ?= -qq
# Two threads: what runs is small, and more only wait for each other.
OMP_NUM_THREADS ?= 2
export OMP_NUM_THREADS
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# The scripts of benchmarks/ that end within minutes, by path.
BENCHES := benchmarks/commands.py benchmarks/frappe.py benchmarks/continue_training.py

# A process for each core, of one thread, takes one file of tests after the other.
SPREAD := --numprocesses=auto --maxprocesses=4 --dist=loadfile

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt
TORCHREC := torchrec==1.8.*
PACKAGING := pyproject.toml constraints.txt
SOURCES := src tests $(wildcard benchmarks examples)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow format bench clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-fused ## prepare, train, recommend and report on real data, in runs/demo
	@echo "==> Running the demo; it leaves its results in runs/demo"
	@$(BIN)/scalerec demo --out runs/demo

test: $(VENV)/.stamp-test ## format check, lint, strict types, tests and doctests
	@echo "==> Format"
	@$(BIN)/ruff format --check $(SOURCES)
	@echo "==> Lint"
	@$(BIN)/ruff check $(SOURCES)
	@echo "==> Types"
	@$(BIN)/mypy
	@echo "==> Tests and doctests"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD) -m "not slow and not gpu"

test-slow: $(VENV)/.stamp-test ## the tests that take longer than a few seconds
	@echo "==> Slow tests"
	@$(BIN)/python -m pytest -m "slow and not gpu" || [ $$? -eq 5 ] # 5: there is none

format: $(VENV)/.stamp-test ## rewrite the code in the project's format
	@$(BIN)/ruff check --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.stamp-bench ## run the short benchmarks and renew docs/benchmarks.md
	@set -e; for script in $(BENCHES); do \
		echo "==> $$script"; $(BIN)/python "$$script"; \
	done
	@if [ -f benchmarks/docs.py ]; then \
		echo "==> benchmarks/docs.py"; $(BIN)/python benchmarks/docs.py; \
	fi

clean: ## remove caches and build outputs; keeps .venv, work/ and runs/
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@for folder in $(SOURCES); do find "$$folder" -name __pycache__ -type d -prune -exec rm -rf {} +; done

distclean: clean ## remove .venv as well, so that the next target sets up anew
	@rm -rf $(VENV)

# Set-up. Each stamp is renewed when the packaging files are newer, and a stamp exists only after its
# step succeeded, so a set-up that was cut short goes on where it stopped.

define PYTHON_CHECK
import sys; found = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "error: scalerec needs Python 3.11 or newer; $(PYTHON) is " + found + ". Name another: make PYTHON=python3.11 ...")
endef

# Some systems ship Python without the module that puts pip into a new environment; the pip that is
# there then does it.
$(VENV)/.stamp-venv:
	@command -v "$(PYTHON)" > /dev/null || { \
		echo "error: $(PYTHON) was not found. Name a Python 3.11 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@"$(PYTHON)" -c '$(PYTHON_CHECK)'
	@echo "==> Creating $(VENV) with $$("$(PYTHON)" --version)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
		if "$(PYTHON)" -c 'import ensurepip' 2> /dev/null; \
		then "$(PYTHON)" -m venv $(VENV); \
		else "$(PYTHON)" -m venv --without-pip $(VENV) \
			&& "$(PYTHON)" -m pip --python $(BIN)/python install $(PIP_FLAGS) -c constraints.txt pip; \
		fi; }
	@touch $@

$(VENV)/.stamp-core: $(PACKAGING) | $(VENV)/.stamp-venv
	@echo "==> Installing scalerec and what it needs (torch is large: minutes, the first time)"
	@$(PIP_INSTALL) -e .
	@touch $@

# TorchRec without its dependencies: its metadata asks for the CUDA build of FBGEMM.
$(VENV)/.stamp-fused: $(VENV)/.stamp-core
	@echo "==> Installing the fused embedding engine (FBGEMM, TorchRec)"
	@if { $(PIP_INSTALL) -e '.[fused]' && $(PIP_INSTALL) --no-deps '$(TORCHREC)' \
		&& $(BIN)/python -c 'import fbgemm_gpu, torchrec'; } > $(VENV)/fused.log 2>&1; \
	then echo "    ready"; \
	else echo "    not available on this machine: the plain-torch engine will be used; it gives the"; \
		echo "    same numbers, slower. Reason: $(VENV)/fused.log; try again: rm $@"; \
	fi
	@touch $@

$(VENV)/.stamp-test: $(VENV)/.stamp-fused
	@echo "==> Installing the checkers"
	@$(PIP_INSTALL) -e '.[test,track]'
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-fused
	@echo "==> Installing the baselines of the benchmarks"
	@$(PIP_INSTALL) -e '.[bench]'
	@touch $@
