"""What does the stage cold-start do, and which files does it write? sample -> tune -> report.

    RUN/base/samples.jsonl     what the untrained model answered, and the traces made of it, a line for each question
    RUN/base/metrics.jsonl     the log of the fine-tuning
    RUN/base/adapter/          what it learned, unless all weights were trained
    RUN/base/model/            the model that marks its thinking: the base of the family
    RUN/base/cold-start.json   what it changed, on validation questions

Each step is skipped if its file is there and was made from the same inputs; sampling and tuning go on after a kill.
Tuning with other settings starts afresh: its checkpoints lie in another directory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from models.files import atomic_directory, write_json
from training.coldstart import marks, merge, report, samples, tune
from training.coldstart.sampler import sampler
from training.config import Recipe
from training.errors import StageError
from training.job import checkpoints
from training.job.allocator import give_back_freed_memory
from training.job.record import fingerprint, fingerprint_of, is_up_to_date, require_up_to_date
from training.job.resume import exclusive_lock
from training.measure.outcomes import bar
from training.precheck import COLD_START_SEED_OFFSET
from training.recipe_base import ColdStart, PretrainedBase
from training.tasks.question import Question
from training.tasks.source import data_record, questions

LEAST_TRACES = 8
LEAST_CLOSED = 0.8
"""Share of the completions that must close their thinking. Reinforcement learning gets no reward from the others."""
_console = Console(stderr=True)


def run(recipe: Recipe) -> None:
    """Make the run's base out of a model that does not mark its thinking.

    Raises:
        StageError: the recipe has no cold start, too few answers are right, or the trained model does not close its
            thinking. Says what to change.
    """
    base, stage = _of(recipe)
    directory = recipe.run_dir / "base"
    source = checkpoints.source_directory(base)
    tokenizer = checkpoints.load_tokenizer(source)
    with exclusive_lock(directory):
        drawn = _draw(recipe, stage, source, tokenizer)
        if not is_up_to_date(directory / "model", _model_record(recipe, stage)):
            (directory / "cold-start.json").unlink(missing_ok=True)  # it is of a model that was removed
            _tune(recipe, stage, source, tokenizer, drawn)
            give_back_freed_memory()
        if not is_up_to_date(directory / "cold-start.json", _report_record(recipe, stage)):
            _console.print(f"cold start: measuring what has changed, on {stage.prompts} questions")
            figures = report.measure(recipe, stage, source, _validation(recipe, stage))
            write_json(directory / "cold-start.json", {"questions": len(drawn), **figures})
    _require_closed(directory)


def solved(recipe: Recipe, count: int) -> Sequence[Question]:
    """`count` of the questions whose samples were right at least once; each equally often, in a new order each time.

    Raises:
        StageError: no sample of any question was right.
    """
    _, stage = _of(recipe)
    right = {row.question for row in samples.read(recipe.run_dir / "base" / "samples.jsonl") if row.correct}
    found = [question for question in _asked(recipe, stage) if question.prompt in right]
    if not found:
        raise StageError(f"family.questions: the cold start solved none of its {stage.questions} questions")
    rng, drawn = random.Random(f"solved/{recipe.seed}"), list[Question]()
    while len(drawn) < count:
        drawn += rng.sample(found, len(found))
    return drawn[:count]


def require(recipe: Recipe) -> None:
    """Raise StageError unless the cold-started base exists, was made from this recipe, and closes its thinking."""
    _, stage = _of(recipe)
    directory = checkpoints.base_directory(recipe).parent
    require_up_to_date(directory / "model", _model_record(recipe, stage))
    require_up_to_date(directory / "cold-start.json", _report_record(recipe, stage))
    _require_closed(directory)


def _of(recipe: Recipe) -> tuple[PretrainedBase, ColdStart]:
    base = recipe.base
    if not isinstance(base, PretrainedBase) or base.cold_start is None:
        raise StageError("base.cold_start: missing from the recipe, so there is no cold start to make")
    return base, base.cold_start


def _draw(
    recipe: Recipe, stage: ColdStart, source: Path, tokenizer: PreTrainedTokenizerBase
) -> Sequence[samples.Drawn]:
    path = recipe.run_dir / "base" / "samples.jsonl"
    asked = _asked(recipe, stage)
    made_from = _samples_record(recipe, stage)
    if is_up_to_date(path, made_from) and len(done := samples.read(path)) == len(asked):
        return done
    with sampler(recipe, source) as sample, bar(len(asked), "cold start: sampling") as progress:
        return samples.draw(
            asked,
            tokenizer,
            stage,
            sample,
            path,
            max_tokens=recipe.family.max_tokens,
            seed=recipe.seed,
            on_block=progress,
        )


def _asked(recipe: Recipe, stage: ColdStart) -> Sequence[Question]:
    return questions(recipe.data, "train", recipe.seed + COLD_START_SEED_OFFSET, stage.questions)


def _tune(
    recipe: Recipe,
    stage: ColdStart,
    source: Path,
    tokenizer: PreTrainedTokenizerBase,
    drawn: Sequence[samples.Drawn],
) -> None:
    directory = recipe.run_dir / "base"
    learned = [trace for row in drawn for trace in row.traces]
    if len(learned) < LEAST_TRACES:
        raise StageError(
            f"base.cold_start: {len(learned)} of {len(drawn) * stage.samples} answers can be learned, too few;"
            " ask more questions or easier ones, raise family.max_tokens, or change the instruction"
        )
    _console.print(f"cold start: learning {len(learned)} traces of {len(drawn)} questions")
    model = checkpoints.load_model(source, "float32")
    ids = marks.add_marks(tokenizer)
    marks.make_room(model, tokenizer, ids)
    work = directory / f"work-{fingerprint_of(json.dumps(_model_record(recipe, stage)))}"
    trained = tune.tune(model, tokenizer, learned, stage, marks=ids, seed=recipe.seed, work=work)
    dtype = checkpoints.config(source).dtype
    with atomic_directory(directory / "model") as unfinished:
        if isinstance(trained, PeftModel):
            merge.save_adapter(trained, directory / "adapter", dtype)
            del model, trained
            merge.write_base(source, directory / "adapter", unfinished)
        else:
            trained.to(dtype).save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)


def _validation(recipe: Recipe, stage: ColdStart) -> Sequence[Question]:
    return questions(recipe.data, "validation", recipe.seed + COLD_START_SEED_OFFSET, stage.prompts)


def _require_closed(directory: Path) -> None:
    closed = report.closed(directory / "cold-start.json")
    if closed < LEAST_CLOSED:
        raise StageError(
            f"base.cold_start: only {closed:.0%} of the trained model's completions close their thinking and answer;"
            f" raise base.cold_start.epochs, questions or lr, or family.max_tokens, and remove {directory / 'model'}"
        )


def _samples_record(recipe: Recipe, stage: ColdStart) -> dict[str, Any]:
    drawing = {"instruction", "answer", "questions", "samples", "temperature", "keep", "forced"}
    drawing |= {name for name in ("examples", "lengths") if name in stage.model_dump(exclude_defaults=True)}
    source = fingerprint(checkpoints.source_directory(_of(recipe)[0]))
    return {
        **stage.model_dump(include=drawing),
        "seed": recipe.seed,
        "max_tokens": recipe.family.max_tokens,
        "data": data_record(recipe.data),
        "source": source,
    }


def _model_record(recipe: Recipe, stage: ColdStart) -> dict[str, Any]:
    training = {"epochs", "batch", "lr", "tune", "lora_rank"}
    samples_file = recipe.run_dir / "base" / "samples.jsonl"
    return {**stage.model_dump(include=training), "seed": recipe.seed, "samples": fingerprint(samples_file)}


def _report_record(recipe: Recipe, stage: ColdStart) -> dict[str, Any]:
    return {
        "prompts": stage.prompts,
        "instruction": stage.instruction,
        "seed": recipe.seed,
        "max_tokens": recipe.family.max_tokens,
        "data": data_record(recipe.data),
        "model": fingerprint(recipe.run_dir / "base" / "model"),
    }
