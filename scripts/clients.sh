#!/usr/bin/env bash
# Installs the clients that tests/clients tries: Python's into .venv-clients and, where there is Node.js with npm,
# JavaScript's into tests/clients/node/node_modules. Does nothing if that is already done.
set -euo pipefail
cd "$(dirname "$0")/.."

clients=tests/clients
say() { echo "clients: $*" >&2; }

python() { # into a virtual environment of its own: what they need is at odds with what the gateway needs
    local python=.venv-clients/bin/python stamp=.venv-clients/.installed wanted
    wanted=$(cat "$clients/requirements.txt" "$0" | cksum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    say "installing the $(wc -l <"$clients/requirements.txt") packages of $clients/requirements.txt"
    [ -x "$python" ] || .venv/bin/python -m venv .venv-clients
    .venv/bin/python -m uv pip install --quiet --python "$python" -r "$clients/requirements.txt" ||
        "$python" -m pip install --quiet -r "$clients/requirements.txt"
    echo "$wanted" >"$stamp"
}

node() {
    local stamp=$clients/node/node_modules/.installed wanted
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        say "there is no Node.js with npm: its clients are left out"
        return
    fi
    wanted=$(cat "$clients"/node/package*.json "$0" | cksum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
    say "installing the packages of $clients/node/package.json"
    npm ci --prefix "$clients/node" --silent --no-audit --no-fund
    echo "$wanted" >"$stamp"
}

python
node
