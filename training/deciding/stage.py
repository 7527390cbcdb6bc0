"""How does a trained checkpoint learn to decide, and which files does that write? try -> learn.

    RUN/family/alpha-A/reinforced      the checkpoint as reinforcement learning left it
    RUN/family/alpha-A/tried-*.jsonl   its first passes, continued by the base
    RUN/family/alpha-A/deciding.jsonl  the log of the fine-tuning

Both steps go on after a kill. Files of other settings have other names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console

from models.files import atomic_directory
from training.config import DenseReward, Recipe
from training.deciding import tried
from training.deciding.lessons import lessons
from training.deciding.tune import tune
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint, fingerprint_of
from training.measure.outcomes import bar
from training.recipe_deciding import Deciding
from training.rewards.dense import EpisodeGrader
from training.tasks.source import data_record, questions

SEED_OFFSET = 7001
"""Between the seed of the questions that reinforcement learning sees and of these."""
LEAST_LESSONS = 4
_console = Console(stderr=True)


def reinforced(target: Path) -> Path:
    """Where reinforcement learning leaves a checkpoint that then learns to decide."""
    return target.with_name("reinforced")


def run(recipe: Recipe, settings: Deciding, alpha: float, target: Path) -> None:
    """Make the checkpoint at `target` out of the one that reinforcement learning has left.

    Raises:
        StageError: hardly any first pass ends, so there is nothing to learn from.
    """
    base, tokenizer = checkpoints.load_base(recipe)
    path = target.with_name(f"tried-{_tried_from(recipe, settings, target)}.jsonl")
    share = recipe.data.hard_share if settings.hard_share is None else settings.hard_share
    data, seed = recipe.data.model_copy(update={"hard_share": share}), recipe.seed + SEED_OFFSET
    asked = questions(data, "train", seed, settings.questions)
    grader = EpisodeGrader(tokenizer, recipe.family.dense_reward or DenseReward())
    checkpoint, _ = checkpoints.load_trained(recipe, reinforced(target))
    trial = tried.Trial(checkpoint, base, tokenizer, grader, recipe.family.max_tokens)
    with bar(len(asked), f"{target.parent.name}: thinking on") as progress:
        drawn = trial.draw(asked, path, seed=recipe.seed, on_block=progress)
    if len(drawn) < LEAST_LESSONS:
        raise StageError(
            f"family.deciding: only {len(drawn)} of {len(asked)} first passes end within half of family.max_tokens"
            f" ({recipe.family.max_tokens}) and can be thought on; raise it, or leave deciding out"
        )
    learned = lessons(drawn, alpha * settings.price)
    pays = sum(any(worth > 0 for worth in lesson.worth) for lesson in learned)
    _console.print(f"family: {target.parent.name} learns to decide; thinking on paid in {pays} of {len(learned)} tries")
    model: Any
    if recipe.family.tune == "full":
        model = checkpoints.load_model(reinforced(target), checkpoints.dtype(recipe))
    else:
        model = PeftModel.from_pretrained(base, str(reinforced(target)), is_trainable=True)
    own = fingerprint_of(json.dumps([settings.record, alpha, fingerprint(path)]))
    work = target.with_name(f"work-of-deciding-{own}")
    trained = tune(model, checkpoint, tokenizer, learned, settings, seed=recipe.seed, work=work)
    with atomic_directory(target) as unfinished:
        trained.save_pretrained(str(unfinished))
        if recipe.family.tune == "full":
            tokenizer.save_pretrained(unfinished)


def _tried_from(recipe: Recipe, settings: Deciding, target: Path) -> str:
    """A short hash of everything that the tries depend on, so that other settings have a file of their own."""
    dense = recipe.family.dense_reward or DenseReward()
    made_from = [
        tried.VERSION,
        recipe.seed,
        data_record(recipe.data),
        settings.questions,
        settings.hard_share,
        recipe.family.max_tokens,
        dense.record,
        fingerprint(reinforced(target)),
        fingerprint(checkpoints.base_directory(recipe)),
    ]
    return fingerprint_of(json.dumps(made_from))
