"""How does a run measure its checkpoints? Each once; a measurement is reused as long as its inputs are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from tqdm.auto import tqdm

from training.config import DenseReward, Recipe
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint, is_up_to_date
from training.measure import budget_forced, evaluate
from training.measure.drawing import Draws
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.question import Question
from training.tasks.source import data_record

_console = Console(stderr=True)

T = TypeVar("T")


def measure(
    recipe: Recipe,
    name: str,
    questions: Sequence[Question],
    path: Path,
    params: SamplingParams,
    *,
    first_episode: DenseReward | None = None,
    surprisal: bool = False,
    draws: Draws | None = None,
) -> None:
    """Measure one checkpoint on these questions and save its outcomes, unless the file is up to date.

    `draws` says who samples; None: the model in this process.
    """
    extras: dict[str, Any] = {"first_episode": first_episode, "surprisal": surprisal}
    made_from = record(recipe, name, params, prompts=len(questions), **extras)
    run = partial(evaluate.sample_and_grade, prompts=questions, params=params, **extras)
    completions = len(questions) * params.samples
    save = outcome.save
    _measure_unless_up_to_date(recipe, name, path, made_from, run=run, save=save, completions=completions, draws=draws)


def measure_budget_forced(
    recipe: Recipe, name: str, questions: Sequence[Question], path: Path, *, draws: Draws | None = None
) -> None:
    """Save the budget-forced answers of one checkpoint to these questions, unless the file is up to date."""
    params = sampling_params(recipe, samples=1)
    made_from = record(recipe, name, params, prompts=len(questions))
    run = partial(budget_forced.measure, prompts=questions, params=params)
    save, completions = outcome.save_budget_forced, 2 * len(questions)
    _measure_unless_up_to_date(recipe, name, path, made_from, run=run, save=save, completions=completions, draws=draws)


def _measure_unless_up_to_date(
    recipe: Recipe,
    name: str,
    path: Path,
    made_from: dict[str, Any],
    *,
    run: Callable[..., T],
    save: Callable[[T, Path], None],
    completions: int,
    draws: Draws | None,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_up_to_date(path, made_from):
        _console.print(f"{path} is up to date")
        return
    model, tokenizer = checkpoints.load(recipe, name)
    with bar(completions, f"{path.parent.name} {path.stem}") as progress:
        drawn = {} if draws is None else {"draw": draws.of(model)}
        measured = run(model, tokenizer, on_batch=progress, **drawn)
    save(measured, path)


def sampling_params(recipe: Recipe, *, samples: int, temperature: float | None = None) -> SamplingParams:
    """The sampling parameters of a recipe's measurements; `temperature` defaults to that of its evaluation."""
    if temperature is None:
        temperature = recipe.evaluate.temperature
    return SamplingParams(recipe.family.max_tokens, temperature, samples, recipe.seed)


def record(
    recipe: Recipe,
    name: str,
    params: SamplingParams,
    *,
    prompts: int,
    first_episode: DenseReward | None = None,
    surprisal: bool = False,
) -> dict[str, Any]:
    """Everything that the outcomes of one checkpoint depend on.

    Raises:
        StageError: the checkpoint has not been trained.
    """
    trained = checkpoints.trained_path(recipe, name)
    if name != "base" and not trained.exists():
        raise StageError(f"{trained} is missing: run `laconic-train family` first")
    return {
        **asdict(params),
        "prompts": prompts,
        "data": data_record(recipe.data),
        "dtype": checkpoints.dtype(recipe),
        "first_episode": first_episode and splitting(first_episode),
        **({"surprisal": True} if surprisal else {}),  # absent if False: older records stay valid
        "base": fingerprint(checkpoints.base_directory(recipe)),
        **({} if name == "base" else {"checkpoint": fingerprint(trained)}),
    }


def splitting(dense: DenseReward) -> dict[str, Any]:
    """The settings that `Outcome.after_first` depends on."""
    return dense.model_dump(include={"answer", "split_by", "max_episodes", "tokens_per_episode"})


def path_in(directory: Path, name: str, *, greedy: bool = False, budget_forced: bool = False) -> Path:
    """The file of one checkpoint's outcomes; greedy ones and budget-forced answers have files of their own."""
    return directory / (
        f"{name}.greedy.jsonl" if greedy else f"{name}.budget-forced.jsonl" if budget_forced else f"{name}.jsonl"
    )


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over completions. Yields a function that takes the number of completions so far."""
    with tqdm(total=total, desc=what, unit="completion") as progress:

        def advance(done: int) -> None:
            progress.update(done - progress.n)

        yield advance
