#!/usr/bin/env bash
# Installs the gateways that benchmarks/gateway.py compares with into .venv-peers. Does nothing if that is already done.
set -euo pipefail
cd "$(dirname "$0")/.."

peers=("litellm[proxy]==1.106.2" "vllm-router==0.1.17")
stamp=.venv-peers/.installed
[ "$(cat "$stamp" 2>/dev/null)" = "${peers[*]}" ] && exit 0
echo "peers: installing ${peers[*]}" >&2
.venv/bin/python -m venv .venv-peers
.venv-peers/bin/python -m pip install --quiet "${peers[@]}"
echo "${peers[*]}" >"$stamp"
