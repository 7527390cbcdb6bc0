# `make` alone lists what there is. Everything lives in .venv, which the first target that needs it creates.

.DEFAULT_GOAL := help
.PHONY: help serve test lint format docs train bench bench-gateway routing-report generated lock clean
PATH := $(CURDIR)/.venv/bin:$(PATH)
export PATH

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: ## start the whole stack on the shipped family: vLLM, Redis and the gateway on http://127.0.0.1:8080
	@scripts/install.sh engine
	@exec laconic serve

test: ## run every test, the end-to-end ones on a real stack included
	@scripts/install.sh all
	python -m pytest

lint: ## check formatting, style, types and who may import whom
	@scripts/install.sh all
	ruff format --check .
	ruff check .
	pyright
	lint-imports --no-logo

format: ## put the code in shape
	@scripts/install.sh all
	ruff format .
	ruff check --fix .

docs: ## build the documentation as a site, with every link checked, into build/site
	@scripts/install.sh all
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

train: ## train the shipped family anew (hours; resumes where it was stopped)
	@scripts/install.sh all
	laconic-train run training/recipes/abacus.yaml

bench: ## measure what the dense reward and a decision cost, and if savings' intervals hold, into benchmarks/results
	@scripts/install.sh all
	python -m benchmarks.dense_reward --out benchmarks/results
	python -m benchmarks.decision --out benchmarks/results
	python -m benchmarks.savings_interval --out benchmarks/results

bench-gateway: ## measure what going through the gateway costs, beside vllm-router and LiteLLM, which it installs
	@scripts/install.sh all
	@scripts/peers.sh
	python -m benchmarks.gateway --out benchmarks/results

routing-report: ## ask the running stack for every checkpoint and for auto, into docs/routing (long; resumes)
	@scripts/install.sh all
	python -m benchmarks.routing

generated: ## write again what is made from committed data: the card, reports, plots, tables and figures
	@scripts/install.sh all
	python -m benchmarks.generated

lock: ## resolve requirements/*.txt anew from pyproject.toml
	@scripts/install.sh all
	scripts/lock.sh

clean: ## remove .venv and what tools left behind; training runs stay
	rm -rf .venv .venv-peers build *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
