# Every command that a contributor needs; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
# Suites that run as they are on the embedded API server and on a real one.
ON_KUBERNETES := tests/contracts/test_cluster_port.py tests/integration/node \
    $(patsubst %,tests/e2e/test_%.py,main_job registry_access) \
    $(patsubst %,tests/integration/test_%.py,controller_command controller_process machine_api resource_verbs)

.PHONY: help setup demo test test-image test-kubernetes e2e check format docs image lock conformance bench-controller bench-machines bench-pipeline bench-registry clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Install the system packages (apt) and the Python environment (.venv)
	@scripts/setup

demo: setup ## Run the main job: from an image's URL to a booted machine (IMAGE=<url> for your own)
	@$(BIN)/python -m demo.run $(if $(IMAGE),--image '$(IMAGE)')

test: setup ## Run all tests (PYTEST='-k name' to choose)
	@$(BIN)/python -m tests.support.go_tool
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST)

e2e: setup ## Run the main path with a real Debian 12 guest, made by mmdebstrap (as root; 10 minutes)
	$(BIN)/python -m pytest -m debian tests/e2e/debian

test-image: setup ## Build the container image twice, push, pull and run it (as root; 4 minutes)
	@$(BIN)/python -m tests.support.go_tool
	$(BIN)/python -m pytest -m container tests/conformance

test-kubernetes: setup ## Run the tests of API, controller and node on a real kube-apiserver (needs Go 1.26; builds it once, 20 minutes)
	@echo "Kubernetes' own programs: built once, into .cache/go"
	@scripts/go-kubernetes $$($(BIN)/python -m tests.support.kubernetes)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m kubernetes tests/conformance tests/integration
	KUBECTL=$$($(BIN)/python -m tests.support.kubernetes kubectl | xargs scripts/go-kubernetes) $(BIN)/python -m pytest tests/conformance/test_cluster_kubectl.py
	$(BIN)/python -m pytest -n 2 --dist loadfile --kubernetes $(ON_KUBERNETES)

check: setup ## Format, lint, types, layers, generated pages and the generated parts of the chart
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/render_configuration.py --check
	$(BIN)/python scripts/render_chart.py --check

format: setup ## Format the code and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup ## Write the generated pages, and what the Helm chart has of the code, anew
	$(BIN)/python scripts/render_configuration.py
	$(BIN)/python scripts/render_chart.py

image: setup ## Build the container image (as root; TAG=name:tag)
	@scripts/container-image $(TAG)

lock: setup ## Resolve the dependencies anew into requirements.lock, and what the container image needs of them
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --upgrade \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --constraint requirements.lock --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements-runtime.lock

conformance: setup ## Run the official OCI conformance program (needs Go) against every storage
	$(BIN)/python -m tests.conformance.official

bench-pipeline: setup ## Import 4 GiB in five formats beside what users do today (25 minutes); writes bench/results/pipeline.json
	$(BIN)/python -m bench.pipeline

bench-registry: setup ## Push and pull beside docker-registry and distribution v3 (needs Go); writes bench/results/registry.json
	$(BIN)/python -m bench.registry

bench-controller: setup ## Apply 3,000 objects on a real kube-apiserver (needs Go), beside kopf; writes bench/results/controller.json
	@scripts/go-kubernetes $$($(BIN)/python -m tests.support.kubernetes)
	$(BIN)/python -m bench.controller

bench-machines: setup ## Start machines, copy, read and capture disks beside bare QEMU and qemu-img; writes bench/results/machines.json
	$(BIN)/python -m bench.machines

clean: ## Remove everything that was built
	rm -rf build .cache data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
