"""How does a checkpoint learn to decide, and which files does that write? try -> learn.

    RUN/family/alpha-A/reinforced      the checkpoint as reinforcement learning left it, if it decides after that
    RUN/family/alpha-A/decided         the base as it decides, if it does so before reinforcement learning
    RUN/family/alpha-A/tried-*.jsonl   first passes of the checkpoint, continued by the base
    RUN/family/tried/*.jsonl           first passes of the base, continued by itself, for all alphas
    RUN/family/alpha-A/deciding.jsonl  the log of the fine-tuning

Both steps go on after a kill. Files of other settings have other names.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

from peft import PeftModel, get_peft_model
from rich.console import Console
from transformers import PreTrainedModel, set_seed

from models.files import atomic_directory
from training.config import Recipe
from training.deciding import tried
from training.deciding.lessons import lessons
from training.deciding.tune import tune
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint, fingerprint_of
from training.job.resume import exclusive_lock
from training.job.trl_settings import adapter
from training.measure.outcomes import bar
from training.recipe_deciding import Deciding
from training.rewards.dense import EpisodeGrader
from training.tasks.source import data_record, questions

SEED_OFFSET = 7001
"""Between the seed of the questions that reinforcement learning sees and of these."""
LEAST_LESSONS = 4
_console = Console(stderr=True)


def run(recipe: Recipe, alpha: float, start: Path | None, target: Path) -> None:
    """Make the checkpoint at `target` out of the one at `start`, or out of the base.

    Raises:
        StageError: hardly any first pass ends, so there is nothing to learn from.
    """
    settings, name = recipe.family.deciding, target.parent.name
    assert settings is not None
    path = _path_of_tries(recipe, settings, start, target)
    before, tokenizer = checkpoints.load_trained(recipe, start) if start else checkpoints.load_base(recipe)
    # All alphas share the tries of the base; those of a checkpoint lie in its directory, which is locked already.
    with nullcontext() if start else exclusive_lock(path.parent, wait=True):
        drawn = _tries(recipe, settings, before, path, name)
    if len(drawn) < LEAST_LESSONS:
        raise StageError(
            f"family.deciding: only {len(drawn)} of {settings.questions} first passes end within half of"
            f" family.max_tokens ({recipe.family.max_tokens}) and can be thought on; raise it, or leave deciding out"
        )
    learned = lessons(drawn, alpha * settings.price)
    pays = sum(any(worth > 0 for worth in lesson.worth) for lesson in learned)
    _console.print(f"family: {name} learns to decide; thinking on paid in {pays} of {len(learned)} tries")
    own = fingerprint_of(json.dumps([settings.record, alpha, fingerprint(path)]))
    work = target.with_name(f"work-of-deciding-{own}")
    trained = tune(_trainable(recipe, start), before, tokenizer, learned, settings, seed=recipe.seed, work=work)
    with atomic_directory(target) as unfinished:
        trained.save_pretrained(str(unfinished))
        if recipe.family.tune == "full":
            tokenizer.save_pretrained(unfinished)


def _tries(recipe: Recipe, settings: Deciding, checkpoint: PreTrainedModel, path: Path, name: str) -> list[tried.Tried]:
    """First passes of the checkpoint, continued by the base, from the file as far as it has them."""
    base, tokenizer = checkpoints.load_base(recipe)
    share = recipe.data.hard_share if settings.hard_share is None else settings.hard_share
    data, seed = recipe.data.model_copy(update={"hard_share": share}), recipe.seed + SEED_OFFSET
    asked = questions(data, "train", seed, settings.questions)
    grader = EpisodeGrader(tokenizer, recipe.probe)
    trial = tried.Trial(checkpoint, base, tokenizer, grader, recipe.family.max_tokens)
    with bar(len(asked), f"{name}: thinking on") as progress:
        return trial.draw(asked, path, seed=recipe.seed, on_block=progress)


def _trainable(recipe: Recipe, start: Path | None) -> PreTrainedModel | PeftModel:
    """The checkpoint, or the base with a new adapter if adapters are trained."""
    model, _ = checkpoints.load_to_train(recipe, start)
    new = adapter(recipe.family, model)
    if new is None:
        return model
    set_seed(recipe.seed)
    return get_peft_model(model, new)


def _path_of_tries(recipe: Recipe, settings: Deciding, start: Path | None, target: Path) -> Path:
    """Named by a short hash of everything that the tries depend on, so that other settings have a file of their own."""
    base = fingerprint(checkpoints.base_directory(recipe))
    made_from = [
        tried.VERSION,
        recipe.seed,
        data_record(recipe.data),
        settings.questions,
        settings.hard_share,
        recipe.family.max_tokens,
        recipe.probe.record,
        fingerprint(start) if start else base,
        base,
    ]
    own = fingerprint_of(json.dumps(made_from))
    return target.with_name(f"tried-{own}.jsonl") if start else recipe.run_dir / "family" / "tried" / f"{own}.jsonl"
