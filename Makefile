# Everything is driven from here; `make help` lists the goals. Needs only python3 (3.11 or later) and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEVICE := 0000:01:00.0

.DEFAULT_GOAL := help
.PHONY: help setup run test lint bench bench-guest reference differential fuzz conformance clients headers clean

help: ## list the goals
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(STAMP) ## make .venv with ioas and everything to develop it
	@:

$(STAMP): pyproject.toml tools/setup.sh hatch_build.py $(wildcard src/ioas/run/mmio/*.c)
	@PYTHON='$(PYTHON)' sh tools/setup.sh $(VENV)
	@touch $@

run: setup ## run an ordinary driver program on a software edu device, with an IOMMU that stops one DMA
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/run-example.sh $(DEVICE)

test: setup ## run the tests; what this machine cannot run is skipped with the reason
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup ## style, types and layering
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: setup ## print the medians that docs/benchmarks.md shows, with yardsticks and budgets
	@$(BIN)/python -m bench

bench-guest: setup ## print what the API costs on the real kernel, in the reference guest
	@$(BIN)/python -m tools.reference run -- python -m bench guest

reference: setup ## build the reference guest's kernels, some minutes (from Debian's source, or IOAS_LINUX=tree)
	@$(BIN)/python -m tools.reference build

headers: setup ## fetch Linux 7.3's headers and selftests into the cache (or set IOAS_LINUX=tree)
	@$(BIN)/python -m tools.kernel fetch

conformance: setup ## run the kernel's own iommufd and VFIO selftests under `ioas run`
	@$(BIN)/python -m tools.kernel conformance $(CONFORMANCE_ARGS)

clients: reference ## run other people's programs under `ioas run`: QEMU with a Linux guest, lspci, dpdk-devbind.py
	@IOAS_REQUIRE=clients,cc $(BIN)/python -m pytest tests/clients -v

CALLS ?= 100000
SEED ?= 1
differential: setup ## make CALLS random calls (from SEED) on the real kernel and on the software host, and compare
	@$(BIN)/python -m tests.differential --calls $(CALLS) --seed $(SEED)

fuzz: setup ## make CALLS random calls (from SEED) on iommufd's dispatcher, and say which of its branches they took
	@$(BIN)/python -m tests.fuzz --calls $(CALLS) --seed $(SEED)

clean: ## remove .venv and what tools left in this directory
	rm -f src/ioas/run/mmio/native.so
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .benchmarks build dist
	find src tests tools bench examples -name __pycache__ -type d -prune -exec rm -rf {} +
