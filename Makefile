# Everything runs in .venv, which the first target that needs it creates and fills.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

MINIO_VERSION := $(shell cat tests/minio.version)
MINIO := .cache/minio/$(MINIO_VERSION)/bin/minio

.PHONY: help install demo test test-slow check bench minio clean

help:  ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

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

test: $(INSTALLED) minio  ## The tests
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
	@if [ -n "$$GRAFT_TEST_S3_ENDPOINT" ] || [ -x $(MINIO) ]; then :; \
	elif ! command -v go >/dev/null; then \
	  echo "no Go to build MinIO with: the tests fall back to moto's server"; \
	else \
	  echo "building MinIO $(MINIO_VERSION), once: about two minutes"; \
	  GOBIN=$(CURDIR)/$(dir $(MINIO)) go install github.com/minio/minio@$(MINIO_VERSION) || \
	    echo "MinIO cannot be built: the tests fall back to moto's server"; \
	fi

clean:  ## Remove .venv and the tools' caches; .cache/ keeps what was built
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
