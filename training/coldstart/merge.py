"""How do a model and the adapter of its cold start become a base? Added up so that every machine gets the same bytes.

A family can then be passed on without the weights of its base: whoever has the public model makes them again
(`training.publish.rebuild`). Matrix products add in an order that depends on processor and threads, so the adapter's
are added up rank by rank, in float64.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models.files import atomic_directory
from training.coldstart import marks
from training.errors import StageError
from training.job import checkpoints

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_UNFIT = (AttributeError, LookupError, OSError, RuntimeError, SafetensorError, TypeError, ValueError)
"""What reading an adapter that is none, or another model's, may raise."""
_LEFT, _RIGHT, _ROWS = ".lora_B.weight", ".lora_A.weight", ".token_adapter.trainable_tokens_delta"


def save_adapter(trained: PeftModel, directory: Path, dtype: torch.dtype) -> None:
    """Write an adapter, in the dtype that the base will have."""
    with atomic_directory(directory) as unfinished:
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        trained.save_pretrained(unfinished, save_embedding_layers=False)  # the marks' rows are in the adapter


def write_base(source: Path, adapter: Path, directory: Path) -> None:
    """Write the base: the model in `source` with the marks and the adapter, in its own dtype.

    Raises:
        StageError: the model or the adapter cannot be loaded, or they do not belong together.
    """
    tokenizer = checkpoints.load_tokenizer(source)
    ids = marks.add_marks(tokenizer)
    base = merged(source, adapter, tokenizer, ids)
    base.to(checkpoints.config(source).dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def merged(source: Path, adapter: Path, tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> PreTrainedModel:
    """The model in `source` with the adapter added to its weights, in float32.

    Args:
        source: the untrained model's directory.
        adapter: what `save_adapter` wrote.
        tokenizer: the untrained model's, with the marks.
        ids: of the marks.

    Raises:
        StageError: as `write_base`.
    """
    model = checkpoints.load_model(source, "float32")
    marks.make_room(model, tokenizer, ids)
    try:
        config = json.loads((adapter / CONFIG).read_text())
        scale = float(config["lora_alpha"]) / int(config["r"])
        weights = load_file(adapter / WEIGHTS)
        for name, tensor in weights.items():
            if name.endswith(_ROWS):
                path = name.removeprefix(_PREFIX).removesuffix(_ROWS)
                rows = config["trainable_token_indices"][path.rpartition(".")[2]]
                _replace_rows(_weight(model, path), rows, tensor)
            elif name.endswith(_LEFT):
                path = name.removeprefix(_PREFIX).removesuffix(_LEFT)
                _add(_weight(model, path), tensor, weights[name.removesuffix(_LEFT) + _RIGHT], scale)
            elif not name.endswith(_RIGHT):
                raise ValueError(f"{name} is not of an adapter that a cold start makes")
    except _UNFIT as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"{adapter}: cannot be added to the model in {source} ({reason})") from None
    return model


def _weight(model: PreTrainedModel, path: str) -> Tensor:
    return model.get_submodule(path).weight


@torch.no_grad()
def _replace_rows(weight: Tensor, rows: list[int], values: Tensor) -> None:
    weight[rows] = values.to(weight.device, weight.dtype)


@torch.no_grad()
def _add(weight: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """Add scale x left @ right, (out, rank) and (rank, in), to a weight, (out, in). In place."""
    change = torch.zeros(weight.shape, dtype=torch.float64)
    for column, row in zip(left.double().T, right.double(), strict=True):
        change += torch.outer(column, row)
    weight.copy_(weight.cpu().double() + scale * change)
