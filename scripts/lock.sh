#!/usr/bin/env bash
# Writes requirements/{all,engine,gateway}.txt anew: every version pinned, the two smaller ones subsets of the first.
# Packages come from where the machine's pip gets them; without a source of CPU wheels of its own, uv knows PyTorch's.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

find_links=${PIP_FIND_LINKS:-$($python -m pip config get global.find-links 2>/dev/null || true)}
torch=(--torch-backend cpu)
if [ -n "$find_links" ]; then
    export UV_FIND_LINKS=${find_links// /,}
    torch=()
fi

compile() { # NAME ARGUMENTS...: with setuptools, which builds this package
    local file=requirements/$1.txt
    shift
    $python -m uv pip compile pyproject.toml - --python-version 3.11 --override requirements/overrides.txt \
        --no-header --no-annotate --quiet "${torch[@]}" --output-file "$file" "$@" <<<setuptools
    echo "$file: $(wc -l < "$file") packages"
}

compile all --extra engine --extra redis --extra train --extra dev --extra docs --extra parquet --extra traces --upgrade
compile engine --extra engine --extra redis --constraint requirements/all.txt --upgrade
compile gateway --extra traces --constraint requirements/all.txt --upgrade
