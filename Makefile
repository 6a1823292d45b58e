# Two commands are all a fresh machine needs: `make demo` and `make test`. Both set themselves up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA ?= ../shared/data
export MPLBACKEND := Agg

.PHONY: help setup lock demo test check lint types protos protos-check containers-check images-check quality bench clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# ---- set-up -----------------------------------------------------------------

setup: $(STAMP)  ## Makes .venv from the hashed lock (uv comes from the package index if absent)

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v uv >/dev/null || test -x $(BIN)/uv || { python3 -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; }
	uv=$$(command -v uv || echo $(BIN)/uv); \
	test -x $(BIN)/python || $$uv venv --quiet --python 3.11 $(VENV); \
	$$uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt && \
	$$uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## Resolves pyproject.toml again into the hashed locks
	uv pip compile --quiet pyproject.toml --extra dev --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/dev.txt
	uv pip compile --quiet pyproject.toml --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/channel.txt
	uv pip compile --quiet pyproject.toml --extra receiver --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/receiver.txt
	uv pip compile --quiet pyproject.toml --extra transmitter --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/transmitter.txt
