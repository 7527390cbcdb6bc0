"""How does a model with an adapter sample at the speed of a plain one? Its adapter is merged into the base meanwhile.

PEFT takes a merged adapter out again by subtraction, which leaves a rounding error behind at every step. A resumed run
starts from the base on disk, without those errors, and would diverge from an uninterrupted one. So the frozen weights
are copied first and restored bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """Merge the adapter into the base within the block; a model without an adapter is left alone."""
    if not hasattr(model, "merge_adapter"):
        yield
        return
    with frozen_weights_restored(model):
        model.merge_adapter()
        try:
            yield
        finally:
            model.unmerge_adapter()


def plain_weights(model: Any) -> dict[str, Tensor]:
    """The weights of a model by the names in its own files, without those of an adapter; tied ones by each name.

    Within `merged`, they are the weights that the model samples with.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    every = base.named_parameters(remove_duplicate=False)
    named = ((name, weight) for name, weight in every if "lora_" not in name)
    return {name.replace(".base_layer.", "."): weight for name, weight in named}


@contextmanager
def frozen_weights_restored(model: Any) -> Iterator[None]:
    """Restore every weight that is not trained, bit for bit, after the block."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    originals = [parameter.detach().clone() for parameter in frozen]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, original in zip(frozen, originals, strict=True):
                parameter.copy_(original)
