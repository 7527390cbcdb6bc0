"""A fine-tuning has the batch that the recipe says, in micro-batches of any size."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.job.supervised import supervised
from training.recipe_base import ColdStart
from training.recipe_deciding import Deciding


@pytest.mark.parametrize(("batch", "most", "micro"), [(32, 16, 16), (16, 12, 8), (10, 4, 2), (7, 4, 1), (4, 16, 4)])
@pytest.mark.parametrize("section", [ColdStart, Deciding])
def test_an_update_has_as_many_rollouts_as_the_recipe_says(
    tmp_path: Path, section: type[ColdStart | Deciding], batch: int, most: int, micro: int
) -> None:
    arguments = supervised(section(batch=batch, micro_batch=most), epochs=1, seed=0, work=tmp_path)
    assert arguments.per_device_train_batch_size == micro
    assert arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps == batch
