"""What do a run's checkpoints do on which prompts? Measured once; it stands while what it depends on does."""

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
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.question import Question
from training.tasks.source import data_record

_console = Console(stderr=True)

T = TypeVar("T")


def measure(
    recipe: Recipe,
    name: str,
    asked: Sequence[Question],
    path: Path,
    params: SamplingParams,
    *,
    first_episode: DenseReward | None = None,
    surprisal: bool = False,
) -> None:
    """Outcomes of one checkpoint on these prompts, unless they stand already."""
    how: dict[str, Any] = {"first_episode": first_episode, "surprisal": surprisal}
    made_from = record(recipe, name, params, prompts=len(asked), **how)
    ask = partial(evaluate.sample_and_grade, prompts=asked, params=params, **how)
    _once(recipe, name, path, made_from, ask=ask, save=outcome.save, completions=len(asked) * params.samples)


def measure_budget_forced(recipe: Recipe, name: str, asked: Sequence[Question], path: Path) -> None:
    """What one checkpoint answers to these prompts when its thinking is stopped, unless that stands already."""
    params = sampling_params(recipe, samples=1)
    made_from = record(recipe, name, params, prompts=len(asked))
    ask = partial(budget_forced.measure, prompts=asked, params=params)
    _once(recipe, name, path, made_from, ask=ask, save=outcome.save_budget_forced, completions=2 * len(asked))


def _once(
    recipe: Recipe,
    name: str,
    path: Path,
    made_from: dict[str, Any],
    *,
    ask: Callable[..., T],
    save: Callable[[T, Path], None],
    completions: int,
) -> None:
    """Load one checkpoint, ask it for so many completions and save what it did, unless that stands already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_up_to_date(path, made_from):
        _console.print(f"{path} stands already")
        return
    model, tokenizer = checkpoints.load(recipe, name)
    with bar(completions, f"{path.parent.name} {path.stem}") as progress:
        found = ask(model, tokenizer, on_batch=progress)
    save(found, path)


def sampling_params(recipe: Recipe, *, samples: int, temperature: float | None = None) -> SamplingParams:
    """How the recipe's checkpoints are measured; default: at the recipe's own temperature."""
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
    """What the outcomes of one checkpoint depend on.

    Raises:
        StageError: it has not been trained.
    """
    trained = checkpoints.trained_path(recipe, name)
    if name != "base" and not trained.exists():
        raise StageError(f"{trained} is missing; run the family stage first: laconic-train family")
    return {
        **asdict(params),
        "prompts": prompts,
        "data": data_record(recipe.data),
        "dtype": checkpoints.dtype(recipe),
        "first_episode": first_episode and splitting(first_episode),
        **({"surprisal": True} if surprisal else {}),  # what was measured before it could be stands
        "base": fingerprint(checkpoints.base_directory(recipe)),
        **({} if name == "base" else {"checkpoint": fingerprint(trained)}),
    }


def splitting(dense: DenseReward) -> dict[str, Any]:
    """What the worth of a first episode depends on."""
    return dense.model_dump(include={"answer", "split_by", "max_episodes", "tokens_per_episode"})


def path_in(directory: Path, name: str, *, greedy: bool = False, budget_forced: bool = False) -> Path:
    """Outcomes of one checkpoint; greedy ones have a file of their own, and answers after stopped thinking."""
    return directory / (
        f"{name}.greedy.jsonl" if greedy else f"{name}.budget-forced.jsonl" if budget_forced else f"{name}.jsonl"
    )


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over completions; the function it yields takes how many are done."""
    with tqdm(total=total, desc=what, unit="completion") as shown:

        def advance(done: int) -> None:
            shown.update(done - shown.n)

        yield advance
