# Two commands are all a fresh machine needs: `make demo` and `make test`. Both set themselves up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV = $(shell command -v uv || echo $(BIN)/uv)
DATA ?= ../shared/data
export MPLBACKEND := Agg

.PHONY: help setup lock demo test slow-test check lint types protos protos-check containers-check images-check quality held-names stuff-pictures pictures bench fuzz faults soak train clean

help:  ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

# ---- set-up -----------------------------------------------------------------

setup: $(STAMP)  ## Makes .venv from the hashed lock (uv comes from the package index if absent)

$(STAMP): requirements/dev.txt pyproject.toml
	@command -v uv >/dev/null || test -x $(BIN)/uv || { \
	  python3 -m venv $(VENV) && $(BIN)/python -m pip install --quiet uv; } || { \
	  echo "set-up needs Python 3.11 with venv (Debian: apt-get install python3-venv), or uv on the path" >&2; exit 1; }
	@test -x $(BIN)/python || $(UV) venv --quiet --python 3.11 $(VENV)
	@echo "Installing into $(VENV) (several GB with torch; minutes on a slow line)"
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

lock:  ## Resolves pyproject.toml again into the hashed locks
	$(UV) pip compile --quiet pyproject.toml --extra dev --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/dev.txt
	$(UV) pip compile --quiet pyproject.toml --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/channel.txt
	$(UV) pip compile --quiet pyproject.toml --extra receiver --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/receiver.txt
	$(UV) pip compile --quiet pyproject.toml --extra transmitter --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/transmitter.txt
	$(UV) pip compile --quiet requirements/build.in --constraint requirements/dev.txt --generate-hashes --no-emit-index-url --python-version 3.11 --output-file requirements/build.txt

# ---- the main job and the tests ---------------------------------------------

demo: $(STAMP)  ## Sends three pictures through the three real services; out/demo/
	$(BIN)/python -m client.demo

test: $(STAMP)  ## The test suite
	$(BIN)/python -m pytest

slow-test: $(STAMP)  ## Tests of many minutes: MAFT+ learns four photos by heart (needs $(DATA))
	MMSC_DATA=$(DATA) $(BIN)/python -m pytest -m slow -s

check: lint types protos-check containers-check test  ## Everything that a change must pass

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

# ---- protos -----------------------------------------------------------------

protos: $(STAMP)  ## Generates shared/stubs from proto/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py

protos-check: $(STAMP)  ## buf lint, and the committed stubs are those of the protos
	$(BIN)/buf lint proto
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python proto/generate.py --check

# ---- measurements (not part of the tests) -----------------------------------

quality: $(STAMP)  ## Relevance and ladder on the development photos (needs $(DATA)); out/quality/
	$(BIN)/mmsc evaluate relevance $(DATA)/coco_query_dev --json out/quality/relevance.json --figures out/quality/relevance
	$(BIN)/python -m evaluation.ladder_quality --data $(DATA)/coco_query_dev --json out/quality/ladder.json

held-names: $(STAMP)  ## What relevance loses on names that the text tower was never told (needs $(DATA); minutes); out/quality/held_names.json
	$(UV) pip install --quiet --python $(BIN)/python --editable '.[training]'
	$(BIN)/python -m evaluation.held_names $(DATA)/coco_query_dev --data $(DATA) --json out/quality/held_names.json

stuff-pictures: $(STAMP)  ## Which stuff ("sky", "grass") is found in 20 development photos (needs $(DATA)); out/quality/stuff.png
	$(BIN)/python -m evaluation.pictures --photos $(DATA)/coco_query_dev --limit 20 --out out/quality/stuff.png

pictures: $(STAMP)  ## Relevance maps of the libraries' sample photos, as the README shows them; docs/relevance.jpg
	$(BIN)/python -m evaluation.pictures --out docs/relevance.jpg

BENCHES := allocation channel compute end-to-end entropy link relevance
bench: $(BENCHES:%=bench-%)  ## All short benchmarks; out/bench/
bench-%: $(STAMP)  ## One benchmark: one of the above, maft (MAFT+ at full size), crowd (hundreds of clients) or transport (minutes each)
	$(BIN)/python -m evaluation.bench.$(subst -,_,$*)

INPUTS ?= 1000000
SEED ?= 0
fuzz: $(STAMP)  ## Damaged inputs for every decoder of bytes from outside (INPUTS=1000000, SEED=0; long); out/fuzz.json
	$(BIN)/python -m tests.fuzz --inputs $(INPUTS) --seed $(SEED) --jobs $$(nproc)

FAULTS ?= 1000
faults: $(STAMP)  ## Seeded faults against the three services (FAULTS=1000, SEED=0; an hour); out/bench/faults.json
	$(BIN)/python -m evaluation.endurance.faults --faults $(FAULTS) --seed $(SEED)

SECONDS ?= 1800
soak: $(STAMP)  ## Mixed transmissions while memory is watched (SECONDS=1800); out/bench/soak.json
	$(BIN)/python -m evaluation.endurance.soak --seconds $(SECONDS) --seed $(SEED)

train: $(STAMP)  ## Trains all weights anew (hours; needs $(DATA)); models/
	$(UV) pip install --quiet --python $(BIN)/python --editable '.[training]'
	$(BIN)/python -m training.ladder --data $(DATA) --out models/
	$(BIN)/python -m training.level_map --data $(DATA) --out models/level_map.safetensors
	$(BIN)/python -m training.entropy.lossy --data $(DATA) --out models/entropy.safetensors
	$(BIN)/python -m training.entropy.lossless --data $(DATA) --out models/lossless.safetensors
	$(BIN)/python -m training.entropy_level_map --data $(DATA) --out models/entropy_level_map.safetensors
	$(BIN)/python -m training.entropy.restoration --data $(DATA) --out models/
	$(BIN)/python -m training.relevance --data $(DATA) --out models/relevance.safetensors

clean:  ## Removes what was made, but not .venv
	rm -rf out .mypy_cache .ruff_cache .pytest_cache .hypothesis

# ---- containers -------------------------------------------------------------

COMPOSE := $(BIN)/podman-compose --dry-run --file docker-compose.yml
containers-check: $(STAMP)  ## Dockerfile, compose files, Prometheus configuration and metrics, without building
	$(BIN)/hadolint deploy/Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.gpu.yml docker-compose.tls.yml
	$(COMPOSE) config >/dev/null
	$(COMPOSE) --file docker-compose.gpu.yml config >/dev/null
	$(COMPOSE) --file docker-compose.tls.yml config >/dev/null
	BIN=$(BIN) deploy/prometheus_check.sh

images-check: $(STAMP)  ## Really builds the images and runs them (root, podman, buildah, debootstrap; minutes)
	BIN=$(BIN) deploy/images_check.sh
