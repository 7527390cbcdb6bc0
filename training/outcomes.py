"""What do a run's checkpoints do on which prompts? Measured once; it stands while what it depends on does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm

from training import checkpoints, cuts, evaluate
from training.config import DenseReward, Recipe
from training.errors import StageError
from training.record import fingerprint, stands
from training.tasks.question import Question
from training.tasks.source import data_record

_console = Console(stderr=True)


def measure(
    recipe: Recipe,
    name: str,
    asked: Sequence[Question],
    path: Path,
    *,
    samples: int,
    temperature: float,
    first_episode: DenseReward | None = None,
) -> None:
    """Outcomes of one checkpoint on these prompts, unless they stand already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {"prompts": len(asked), "samples": samples, "temperature": temperature}
    if stands(path, record(recipe, name, **how, first_episode=first_episode)):
        _console.print(f"{path} stands already")
        return
    model, spoken = checkpoints.load(recipe, name)
    with bar(len(asked) * samples, f"{path.parent.name} {path.stem}") as progress:
        rows = evaluate.judge(
            model,
            spoken,
            asked,
            samples=samples,
            temperature=temperature,
            max_tokens=recipe.family.max_tokens,
            seed=recipe.seed,
            on_batch=progress,
            first_episode=first_episode,
        )
    evaluate.save(rows, path)


def measure_cuts(recipe: Recipe, name: str, asked: Sequence[Question], path: Path) -> None:
    """What one checkpoint answers to these prompts when its thinking is stopped, unless that stands already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if stands(path, record(recipe, name, prompts=len(asked), samples=1, temperature=recipe.evaluate.temperature)):
        _console.print(f"{path} stands already")
        return
    model, spoken = checkpoints.load(recipe, name)
    with bar(2 * len(asked), f"{path.parent.name} {path.stem}") as progress:
        found = cuts.measure(
            model,
            spoken,
            asked,
            temperature=recipe.evaluate.temperature,
            max_tokens=recipe.family.max_tokens,
            seed=recipe.seed,
            on_batch=progress,
        )
    cuts.save(found, path)


def record(
    recipe: Recipe,
    name: str,
    *,
    prompts: int,
    samples: int,
    temperature: float,
    first_episode: DenseReward | None = None,
) -> dict[str, Any]:
    """What the outcomes of one checkpoint depend on.

    Raises:
        StageError: it has not been trained.
    """
    trained = checkpoints.trained_path(recipe, name)
    if name != "base" and not trained.exists():
        raise StageError(f"{trained} is missing; run the family stage first: laconic-train family")
    return {
        "seed": recipe.seed,
        "prompts": prompts,
        "samples": samples,
        "temperature": temperature,
        "max_tokens": recipe.family.max_tokens,
        "data": data_record(recipe.data),
        "dtype": checkpoints.dtype(recipe),
        "first_episode": first_episode and splitting(first_episode),
        "base": fingerprint(checkpoints.base_directory(recipe)),
        **({} if name == "base" else {"checkpoint": fingerprint(trained)}),
    }


def splitting(dense: DenseReward) -> dict[str, Any]:
    """What the worth of a first episode depends on."""
    return dense.model_dump(include={"answer", "split_by", "max_episodes", "tokens_per_episode"})


def path_in(directory: Path, name: str, *, greedy: bool = False, cut: bool = False) -> Path:
    """Outcomes of one checkpoint; greedy ones have a file of their own, and answers after stopped thinking."""
    return directory / (f"{name}.greedy.jsonl" if greedy else f"{name}.cut.jsonl" if cut else f"{name}.jsonl")


@contextmanager
def bar(total: int, what: str) -> Iterator[Callable[[int], None]]:
    """A progress bar over completions; the function it yields takes how many are done."""
    with tqdm(total=total, desc=what, unit="completion") as shown:

        def advance(done: int) -> None:
            shown.update(done - shown.n)

        yield advance
