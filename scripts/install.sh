#!/usr/bin/env bash
# usage: scripts/install.sh NAME      NAME: gateway, engine or all
# Installs what requirements/NAME.txt pins, and this package, into .venv. Does nothing if that is already installed.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?usage: scripts/install.sh gateway|engine|all}
requirements=requirements/$name.txt
stamp=.venv/.installed-$name
uv_version=0.13.8
python=.venv/bin/python
log=.venv/install.log

say() { echo "install: $*" >&2; }
die() { say "$@"; exit 1; }

supported() { # supported PYTHON [MODULE]
    "$1" -c "import ${2:-sys}, sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))" 2>/dev/null
}

in_place() { # the programs in an environment name its place, so they fail once it was moved
    made=$(sed -n 's|^command = .* -m venv \(.* \)\{0,1\}/|/|p' .venv/pyvenv.cfg 2>/dev/null || true)
    [ -z "$made" ] || [ "$made" -ef .venv ]
}

ours() { # an environment that somebody made by hand is not thrown away
    [ -e "$log" ] || [ -L .venv ] || [ -z "$(ls -A .venv)" ] || is_half
}

is_half() { # what `python -m venv` leaves behind where it fails
    grep -qs '^command = .* -m venv ' .venv/pyvenv.cfg && ! "$python" -c 'import pip' 2>/dev/null
}

make_venv() {
    [ ! -e .venv ] || ours || die ".venv has no pip or another Python than 3.11 or 3.12, and was not made by this script;" \
        "move it away"
    # What cannot be used: half an environment, or one that was moved or whose Python is gone. A mount point stays.
    rm -rf .venv 2>/dev/null || [ -z "$(ls -A .venv)" ] || die ".venv cannot be removed"
    hash -r      # make has its python3 first on PATH
    for candidate in "${PYTHON:-python3}" python3.12 python3.11; do
        if supported "$candidate"; then
            say "creating .venv with $("$candidate" --version)"
            "$candidate" -m venv .venv && return
            rm -rf .venv
            die "$candidate -m venv failed (on Debian: apt-get install python3-venv)"
        fi
    done
    die "Python 3.11 or 3.12 is needed, but ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true);" \
        "set another one with PYTHON=/path/to/python3.11 make ..."
}

run() { # run MESSAGE COMMAND...: run a command with its output in the log
    say "$1"
    shift
    "$@" >>"$log" 2>&1
}

uv() { "$python" -m uv pip install --python "$python" --no-deps "$@"; }
pip() { "$python" -m pip install --quiet --no-deps "$@"; }

[ -f "$requirements" ] || die "there is no $requirements"
fingerprint=$(cat "$requirements" pyproject.toml models/forecast.c "$0" | cksum)
supported "$python" pip && in_place || make_venv
[ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ] && exit 0

: >"$log"
trap '[ $? -eq 0 ] || { tail -n 15 "$log" >&2; say "failed; the full log is in $log"; }' EXIT

"$python" -c "import importlib.metadata as m, sys; sys.exit(m.version('uv') != '$uv_version')" 2>/dev/null ||
    run "fetching uv $uv_version" pip "uv==$uv_version" || say "uv is not available; using pip, which is slower"

# The CPU build of torch is not on PyPI. Try pip's configured sources first, then PyTorch's own index through uv.
torch=$(grep '^torch==' "$requirements" || true)
if [ -n "$torch" ]; then
    run "installing torch for the CPU" pip "$torch" || uv --torch-backend cpu "${torch%+cpu}" >>"$log" 2>&1 ||
        die "torch could not be installed: $torch is in none of pip's sources, and PyTorch's own index is not reachable"
fi

run "installing the $(wc -l <"$requirements") packages of $requirements" uv -r "$requirements" ||
    run "uv failed; trying pip" pip -r "$requirements"
run "installing laconic" pip --no-build-isolation --editable .
echo "$fingerprint" >"$stamp"
