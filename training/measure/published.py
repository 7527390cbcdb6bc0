"""How does a checkpoint of a published family do? Sampled and graded here, from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from models.family import Family
from training.config import Recipe
from training.job import checkpoints
from training.measure import evaluate, outcomes
from training.rollouts.params import SamplingParams
from training.tasks.outcome import Graded
from training.tasks.question import Question


def sample_and_grade(
    directory: Path,
    published: Family,
    name: str,
    *,
    recipe: Recipe | None,
    drawn: Sequence[Question],
    params: SamplingParams,
) -> list[Graded]:
    """Graded samples of one checkpoint, with a progress bar; a recipe says the dtype."""
    base_path = published.base_checkpoint.place(directory)
    dtype = checkpoints.dtype(recipe) if recipe else "float32"
    model = checkpoints.load_published(directory, published.checkpoint(name), base_path, dtype)
    tokenizer = checkpoints.load_tokenizer(base_path)
    with outcomes.bar(len(drawn) * params.samples, name) as progress:
        return evaluate.sample_and_grade(model, tokenizer, drawn, params, on_batch=progress)
