# Two commands matter: `make book` executes every chapter and builds the HTML, `make test` checks
# everything that is stored. Use another interpreter with PYTHON=python3.12, or an environment that
# you made yourself (conda, a container) with PY=python; then nothing is installed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input
LOGS := _build/logs
LINT := tests/test_notebooks.py tests/test_form.py tests/test_project.py tests/test_gate.py
PAGES := tests/test_book.py tests/test_pages.py

ifeq ($(origin PY),undefined)
PY := .venv/bin/python
ENV := .venv/.installed
# Another environment that is active in this shell must not be taken for ours.
unexport VIRTUAL_ENV
endif

# An interpreter asked for by name must be the one that .venv has.
ifeq ($(origin PYTHON)$(filter clean-env,$(MAKECMDGOALS)),command line)
ifneq ($(wildcard .venv/bin/python),)
ifneq ($(shell $(PYTHON) -V 2>&1),$(shell .venv/bin/python -V 2>&1))
$(error .venv holds $(shell .venv/bin/python -V 2>&1) and PYTHON is $(shell $(PYTHON) -V 2>&1): \
  `make clean-env` first)
endif
endif
endif

# $(call step,NAME,COMMAND): show and keep the output, note its last line and the time.
# `set` is repeated here because make before 3.82 (macOS) knows no .SHELLFLAGS.
define step
@set -euo pipefail; echo "── $(1)"; { $(2); } 2>&1 | tee $(LOGS)/$(1).log; \
	echo "$(1): $$(tail -n 1 $(LOGS)/$(1).log) [$$SECONDS s]" >> $(LOGS)/summary
endef

.PHONY: help env book test unit nbval html pdf variants seeds faults platforms colab rehearse lint \
  serve bench bundle ledger pages clean clean-env

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1 \2/p' Makefile | \
	  while read -r a b c; do printf '  %-16s %s\n' "$$a $$b" "$$c"; done

env: $(ENV)  ## make .venv with the tested versions

.venv/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 env" >&2; exit 1; }
	@echo "env: installing into .venv (a few minutes the first time)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@# torch alone first: the later resolution then keeps this build instead of fetching another.
	@$(PIP) install -c constraints.txt '$(TORCH)'
	@$(PIP) install -c constraints.txt -e '.[book,test]'
	@touch $@

book: $(ENV)  ## execute all chapters, compare with what is stored, build _build/html
	@$(PY) -m reproduce book

html: $(ENV)  ## build _build/html from the stored outputs
	@$(PY) -m reproduce html

pdf: html  ## build, then print the book to one PDF with a headless Chromium
	@$(PY) -m reproduce pdf

test: $(ENV)  ## lint, unit tests, nbval of all chapters, book without warnings
	@mkdir -p $(LOGS) && rm -f $(LOGS)/summary
	@ls chapters/*.ipynb > /dev/null || { echo "no chapter found in chapters/" >&2; exit 1; }
	$(call step,ruff,$(PY) -m ruff check .)
	$(call step,lint,$(PY) -m pytest -q -n 2 --dist loadfile $(LINT))
	$(call step,unit,$(MAKE) unit)
	$(call step,nbval,$(MAKE) nbval)
	$(call step,html,$(PY) -m reproduce html)
	$(call step,pages,BOOK_REQUIRED=1 $(PY) -m pytest -q -n 2 $(PAGES))
	@echo "── all passed"; cat $(LOGS)/summary

# Two processes, a file at a time in each, one thread each.
unit: $(ENV)  ## unit and property tests
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadfile tests \
	  $(addprefix --ignore=,$(LINT) $(PAGES))

# Two notebooks at a time, one thread each; the output of each stays together.
nbval: $(ENV)  ## nbval of all stored notebooks, two at a time
	@mkdir -p $(LOGS)
	@ls chapters/*.ipynb pages/*.ipynb | OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 xargs -n 1 -P 2 bash -c ' \
	  log=$(LOGS)/nbval-$$(basename "$$0" .ipynb).log; code=0; \
	  $(PY) -m pytest -q --nbval --nbval-sanitize-with nbval.cfg "$$0" > "$$log" 2>&1 || code=1; \
	  echo "$$0"; cat "$$log"; exit $$code'

lint: $(ENV)  ## ruff, the notebook rules, the project's own consistency
	@$(PY) -m ruff check .
	@$(PY) -m pytest -q -n 2 --dist loadfile $(LINT)

variants: $(ENV)  ## run the variants that this machine can run, then check them
	@$(PY) -m reproduce run
	@$(PY) -m reproduce check

seeds: $(ENV)  ## run seeds 0 to 9 of every chapter, or of SLUG=…, and keep the verdicts
	@$(PY) -m reproduce seeds $(SLUG)

faults: $(ENV)  ## plant the listed faults in chapters and nclib; an unseen one is an error
	@$(PY) -m reproduce faults $(SLUG)
	@$(PY) -m tests.mutate

# The oldest torch that pyproject.toml allows, in an environment of its own.
OLD_TORCH ?= 2.4.1
OLD := _build/torch-$(OLD_TORCH)

$(OLD)/.installed: constraints.txt
	@test -x $(OLD)/bin/python || $(PYTHON) -m venv $(OLD)
	@grep -v '^torch==' constraints.txt > $(OLD)/constraints.txt
	@$(OLD)/bin/python -m pip --quiet --disable-pip-version-check --no-input install \
	  -c $(OLD)/constraints.txt 'torch==$(OLD_TORCH)' numpy matplotlib scipy scikit-learn pooch \
	  papermill ipykernel pyyaml
	@touch $@

platforms: $(ENV) $(OLD)/.installed  ## run SLUG=… (or all) with another torch, threads, kernels
	@$(PY) -m reproduce platforms --python $(OLD)/bin/python $(SLUG)

colab: $(ENV)  ## play Colab: SLUG=… (or all) in a fresh environment, installed by its first cell
	@$(PY) tests/colab.py $(SLUG)

rehearse: $(ENV)  ## the gpu preset of every chapter, small, on a pretend CUDA device
	@$(PY) tests/rehearse.py $(SLUG)

pages: $(ENV)  ## execute the notebooks that are no chapters and store their outputs
	@$(PY) -m reproduce pages

ledger: $(ENV)  ## write the ledger and the status tables from the stored notebooks
	@$(PY) -m reproduce ledger

serve: html  ## build, then show the book on http://localhost:8000
	@$(PY) -m http.server 8000 --bind 127.0.0.1 --directory _build/html

bench: $(ENV)  ## time nclib against textbook forms, and how its cost grows
	@for script in benchmarks/*.py; do $(PY) $$script; done

bundle: $(ENV)  ## one archive for a machine without network
	@$(PY) -m reproduce bundle

clean:  ## remove build products
	@rm -rf _build .pytest_cache .ruff_cache .hypothesis pages/ledger.md pages/found.md pages/trust.md \
		pages/cost.md pages/what-changes pages/_static/ledger.json pages/_static/ledger.csv

clean-env:  ## remove .venv
	@rm -rf .venv
