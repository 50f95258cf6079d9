# Everything runs in .venv, which the first target that needs it creates and fills.

PYTHON ?= python3
BIN := .venv/bin
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

.PHONY: help install demo test test-slow check bench minio programs image e2e e2e-parts cluster clean

help:  ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## Create .venv and fill it with what constraints.txt pins

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Graft needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt hatchling editables
	$(BIN)/pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

demo: $(INSTALLED)  ## The main job, whole, without network: import, pretrain, transfer, serve
	$(BIN)/graft demo

test: $(INSTALLED) minio programs  ## The tests
	$(BIN)/pytest

test-slow: $(INSTALLED) minio  ## The tests marked slow
	$(BIN)/pytest -m slow

check: $(INSTALLED)  ## Lint, formatting, types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(INSTALLED) minio  ## The benchmarks; each appends a line to bench.jsonl
	@set -e; for bench in tests/bench/bench_*.py; do echo "$$bench"; $(BIN)/python $$bench; done

minio:  ## The S3 server of the tests, built from its Go module where there is Go
	@[ -n "$$GRAFT_TEST_S3_ENDPOINT" ] || $(PYTHON) tests/programs.py minio

programs:  ## What the chart's tests need: helm, kubeconform, Kubernetes' and KubeRay's schemas
	@$(PYTHON) tests/programs.py helm kubeconform kubernetes-files kuberay-files \
	  gateway-api-files

image:  ## Build the image: IMAGE, BASE_IMAGE, ENGINE (docker, podman, buildah), PIP_CONF, CA_BUNDLE
	@[ -n "$(ENGINE)" ] || { echo "no docker, podman or buildah that answers" >&2; exit 1; }
	$(ENGINE) build -f deploy/Dockerfile -t $(IMAGE) $(SECRETS) \
	  $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) .

e2e: $(INSTALLED)  ## The tests on a real Kubernetes, raised for them on this machine; needs root
	@PYTHONPATH=tests $(BIN)/python -m cluster.e2e $(E2E)

e2e-parts:  ## Build what e2e needs, programs and image: the half hour that it takes the first time
	@PYTHONPATH=tests $(PYTHON) -m cluster.e2e --prepare

cluster: $(INSTALLED)  ## Raise that Kubernetes and keep it until Ctrl-C
	@PYTHONPATH=tests $(BIN)/python -m cluster.e2e --up

clean:  ## Remove .venv and the tools' caches; .cache/ keeps what was built
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
