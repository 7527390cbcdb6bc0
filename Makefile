# Run `make` to list the targets. They use .venv, which the first one that needs it creates.

.DEFAULT_GOAL := help
.PHONY: help serve test screenshots test-clients lint format docs train family-real bench bench-gateway bench-attacks bench-surfaces bench-soak bench-growth bench-live count routing-report generated lock clean
PATH := $(CURDIR)/.venv/bin:$(PATH)
export PATH

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: ## start vLLM, Redis and the gateway with the shipped family on http://127.0.0.1:8080
	@scripts/install.sh engine
	@exec laconic serve

test: ## run all tests, two at a time, including the end-to-end tests on a real stack
	@scripts/install.sh all
	-@python -m scripts.browser
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 python -m pytest -n 2

screenshots: ## make the pictures of the dashboard in docs/images again
	@scripts/install.sh all
	@python -m scripts.browser
	LACONIC_SCREENSHOTS=docs/images python -m pytest tests/gateway/dashboard/test_page.py -k pictures

test-clients: ## try the gateway with other people's clients and LiteLLM's proxy, which it installs (some need Node.js)
	@scripts/install.sh all
	@scripts/clients.sh
	@scripts/peers.sh
	python -m pytest tests/clients -v

lint: ## check formatting, style, types and the import layers
	@scripts/install.sh all
	ruff format --check .
	ruff check .
	pyright
	lint-imports --no-logo

format: ## format the code and fix what ruff can fix
	@scripts/install.sh all
	ruff format .
	ruff check --fix .

docs: ## build the documentation site into build/site, and check every link
	@scripts/install.sh all
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

train: ## train the shipped family again (takes hours; resumes after an interruption)
	@scripts/install.sh all
	laconic-train run training/recipes/abacus.yaml

family-real: ## train a family of Qwen2.5-Coder-0.5B-Instruct on GSM8K (an afternoon; resumes); BASE=DIR if you have the model
	@scripts/install.sh all
	@mkdir -p bases && if [ -n "$(BASE)" ]; then ln -sfn "$(abspath $(BASE))" bases/qwen2.5-coder-0.5b-instruct; \
	else scripts/real-base.sh bases/qwen2.5-coder-0.5b-instruct; fi
	laconic-train run training/recipes/qwen2.5-coder-0.5b.yaml

bench: ## measure the cost of the dense reward and of routing, and the coverage of the intervals of savings and quality
	@scripts/install.sh all
	python -m benchmarks.dense_reward --out benchmarks/results
	python -m benchmarks.decision --out benchmarks/results
	python -m benchmarks.savings_interval --out benchmarks/results
	python -m benchmarks.quality_interval --out benchmarks/results

bench-gateway: ## measure the cost of the gateway beside vllm-router and LiteLLM, which it installs
	@scripts/install.sh all
	@scripts/peers.sh
	python -m benchmarks.gateway --out benchmarks/results

bench-attacks: ## measure what another caller notices while the gateway is attacked (about twelve minutes)
	@scripts/install.sh all
	python -m benchmarks.attacks --out benchmarks/results

bench-surfaces: ## measure what Messages, Responses and completions cost beside chat completions (two minutes)
	@scripts/install.sh all
	python -m benchmarks.surfaces --out benchmarks/results

bench-soak: ## send 100 streamed requests a second for twenty minutes, and check memory, open files and ledger
	@scripts/install.sh all
	python -m benchmarks.soak --out benchmarks/results

bench-growth: ## measure how the cost grows with checkpoints, bodies, keys, ledger entries and more (about eight minutes)
	@scripts/install.sh all
	python -m benchmarks.growth --out benchmarks/results

bench-live: ## measure quality, its alert, refits and shadows on a running stack (an hour; resumes); PART=holdout, spoiled, drift or overhead
	@scripts/install.sh all
	@for part in $(or $(PART),holdout spoiled drift overhead); do \
	python -m benchmarks.live_$$part --out benchmarks/results || exit 1; done

count: ## count the instructions of a decision and of a request with valgrind; fails on a tenth more than is committed
	@scripts/install.sh all
	python -m benchmarks.instructions

routing-report: ## compare every checkpoint and auto on the real stack, into docs/routing (takes long; resumes)
	@scripts/install.sh all
	python -m benchmarks.routing

generated: ## rebuild everything generated from committed data: the card, reports, plots, tables and figures
	@scripts/install.sh all
	python -m benchmarks.generated

lock: ## resolve requirements/*.txt again from pyproject.toml
	@scripts/install.sh all
	scripts/lock.sh

clean: ## remove .venv and the caches of tools; training runs are kept
	rm -rf .venv .venv-peers .venv-clients tests/clients/node/node_modules build *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
