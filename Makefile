# Everything runs as root on Debian 12: the tests drive a real libvirt and QEMU.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup venv lint format test test-unit test-lvm test-versions faults nightly soak bench scale images demo cluster cluster-down lock clean

PYTHON ?= python3
BIN := .venv/bin
# How many tests run side by side: they wait more than they work.
WORKERS ?= 4
# SECONDS alone is bash's own.
SOAK_SECONDS = $(or $(SECONDS),3600)
export PYTHON
# The package runs from the checkout.
export PYTHONPATH := $(CURDIR)/operator:$(CURDIR)
export MYPYPATH := $(PYTHONPATH)
# Whatever the environment says: without bytecode each worker and each program that a test starts compiles all of it.
export PYTHONDONTWRITEBYTECODE :=

help:  ## Say what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

setup: venv  ## Install and build what all the others need: packages, Kubernetes, the guest, the images
	@$(BIN)/python -m testbed build

venv:
	@testbed/packages.sh
	@testbed/venv.sh

lint: venv  ## Check style, types and which module imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p diskmigration -p testbed -p tests -p bench
	$(BIN)/lint-imports

format: venv  ## Lay the code out as `make lint` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup  ## Run all tests: the pure parts, then those on the real apiserver, libvirt and QEMU
	$(BIN)/pytest --numprocesses $(WORKERS)

test-unit: venv  ## Run the tests of the pure parts alone
	$(BIN)/pytest --numprocesses $(WORKERS) tests/unit

test-lvm: setup  ## Run the tests of LVM in a VM of their own; LVM="-k name" has some of them, dist/lvm-lane the results
	$(BIN)/python -m testbed.lvm_lane $(LVM)

test-versions: venv  ## Run the tests of the API on the oldest and the newest Kubernetes, built for it: for the night
	$(BIN)/python -m testbed.versions

faults: setup  ## Break everything at every moment of a migration, and say how each ended: for the night; FAULTS="-k name"
	$(BIN)/pytest -m faults --numprocesses $(WORKERS) $(FAULTS) tests/integration/faults

nightly: setup  ## Run what takes too long for each change: all variants, faults, hosts, versions, LVM, soak; LANES="faults lvm"
	@WORKERS=$(WORKERS) $(BIN)/python -m testbed.nightly $(LANES)

soak: setup  ## Move disks about by chance and compare every byte, for SECONDS=3600; SEED=N has the same choices again
	@DISKMIGRATION_SOAK_SECONDS=$(SOAK_SECONDS) DISKMIGRATION_SOAK_SEED=$(SEED) \
		$(BIN)/pytest --capture=no tests/integration/soak

bench: setup  ## Measure ourselves beside bare blockcopy and the classical extender, and write docs/explanation/benchmarks.md; BENCH="--quick"
	@$(BIN)/python -m bench $(BENCH)

scale: setup  ## Try 1,000 agents with 1,000 and 10,000 migrations, and print goals beside figures; SCALE="--agents 50 --migrations 100 500"
	@$(BIN)/python -m tests.scale $(SCALE)

images: venv  ## Build the container images and say where they are; only what changed is built anew
	@$(BIN)/python -m testbed.images

demo: setup  ## Move a running guest's disk there and back, before your eyes
	@$(BIN)/python -m testbed.demo

cluster: setup  ## Start a cluster in the background, with this checkout's images (NODES="node-a node-b": of two nodes)
	@$(BIN)/python -m testbed.cluster up $(NODES)

cluster-down: venv  ## End that cluster; nothing of it is left
	@$(BIN)/python -m testbed.cluster down

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-annotate --custom-compile-command "make lock"

lock: venv  ## Choose the newest allowed versions of all Python packages anew
	$(COMPILE) --upgrade --extra agent --extra dev --extra bench --output-file requirements/dev.lock pyproject.toml
	$(COMPILE) --constraint requirements/dev.lock --output-file requirements/operator.lock pyproject.toml
	$(COMPILE) --constraint requirements/dev.lock --extra agent --output-file requirements/agent.lock pyproject.toml
	$(COMPILE) --upgrade --output-file requirements/build.lock requirements/build.in
	@testbed/venv.sh

clean:  ## Remove what the others left in the checkout; the caches outside stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
