"""What does one seed of an experiment come to? One reward's family trained and measured, in one small file.

A results file holds every figure that the report compares, so that files can be kept, sent and put beside others when
the run that made them is gone. An experiment whose file is there is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console

from models.field import first_error
from models.files import write_json
from training import checks, stages
from training.config import DenseReward, PretrainedBase, Recipe, Reward, checkpoint_name
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint_of, first_difference, require_up_to_date
from training.measure import figures, outcomes
from training.tasks import outcome
from training.tasks.outcome import Graded
from training.tasks.source import questions

Measures = dict[str, float | None]
"""By "tokens, hard", "greedy accuracy, overall" and so on; None where there was nothing to measure."""
Episode = tuple[int, float, float]
"""Which one of its rollout from 1, what it gained, what it was charged."""
NOTED = 600
"""Most episodes in a results file."""
_console = Console(stderr=True)


class Result(BaseModel):
    """One seed of one recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    recipe: str
    reward: Reward
    seed: int
    made_from: dict[str, Any]
    """Everything that the figures depend on."""
    difficulties: tuple[str, ...]
    checkpoints: dict[str, Measures]
    """The base's figures and those of each checkpoint."""
    alphas: dict[str, float]
    """Of each checkpoint but the base."""
    episodes: tuple[Episode, ...]
    """Some of those that the trainings paid for; none without a dense reward."""


def run(recipe: Recipe, results: Path) -> None:
    """Train and measure the family of one reward, and write down what it came to.

    On held-out prompts at temperature 1, with what the first episode was worth, and greedily. The base, which
    experiments share, is measured beside them once.

    Raises:
        StageError: its result stands and is of another experiment.
    """
    path, made_from = path_in(results, recipe), _made_from(recipe)
    if path.exists():
        if changed := first_difference(load(path).made_from, made_from):
            raise StageError(f"{path} is of an experiment with {changed}: remove it to run this one")
        _console.print(f"{path} stands already")
        return
    stages.family(recipe)
    asked = questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    dense = recipe.family.dense_reward or DenseReward()
    measured: dict[str, Measures] = {}
    for name in checkpoints.names(recipe):
        directory = base_outcomes(recipe) if name == "base" else recipe.run_dir / "evaluate"
        sampled, greedy = outcomes.path_in(directory, name), outcomes.path_in(directory, name, greedy=True)
        params = outcomes.sampling_params(recipe, samples=recipe.evaluate.samples, temperature=1.0)
        outcomes.measure(recipe, name, asked, sampled, params, first_episode=dense)
        outcomes.measure(recipe, name, asked, greedy, outcomes.sampling_params(recipe, samples=1, temperature=0.0))
        rows = outcome.load(sampled)
        measured[name] = measures(rows, outcome.load(greedy))
    result = Result(
        recipe=recipe.name,
        reward=recipe.family.reward,
        seed=recipe.seed,
        made_from=made_from,
        difficulties=tuple(figures.difficulties(rows)),
        checkpoints=measured,
        alphas={checkpoint_name(alpha): alpha for alpha in recipe.family.alphas},
        episodes=noted(
            [checkpoints.trained_path(recipe, name).parent for name in checkpoints.names(recipe)[1:]]
            if recipe.family.dense_reward
            else []
        ),
    )
    write_json(path, result.model_dump(mode="json"))


def check(recipes: Sequence[Recipe], results: Path) -> None:
    """See that all of these experiments can be run, before the first of them is.

    Raises:
        StageError: a recipe trains a base of its own or measures at another temperature than 1, two would write one
            file or share a base's outcomes that differ, or something they need is missing; names it.
    """
    files: dict[Path, Recipe] = {}
    shared: dict[Path, dict[str, Any]] = {}
    for recipe in recipes:
        if not isinstance(recipe.base, PretrainedBase):
            raise StageError(f"{recipe.name}: an experiment compares rewards on one base; name it in base.model")
        if recipe.evaluate.temperature != 1:
            raise StageError(f"{recipe.name}: evaluate.temperature: experiments measure at 1, and greedily")
        if (path := path_in(results, recipe)) in files:
            raise StageError(f"{recipe.name}, seed {recipe.seed}: two recipes of that name would write {path}")
        files[path] = recipe
        if path.exists():
            continue
        checks.check(recipe)
        params = outcomes.sampling_params(recipe, samples=recipe.evaluate.samples, temperature=1.0)
        dense = recipe.family.dense_reward or DenseReward()
        of_base = outcomes.record(recipe, "base", params, prompts=recipe.evaluate.prompts, first_episode=dense)
        if (measured := outcomes.path_in(base_outcomes(recipe), "base")).exists():
            require_up_to_date(measured, of_base)
        if changed := first_difference(shared.setdefault(base_outcomes(recipe), of_base), of_base):
            raise StageError(
                f"{recipe.name}: experiments beside each other measure their base once, and this one has {changed};"
                " give it a run_dir elsewhere"
            )


def path_in(results: Path, recipe: Recipe) -> Path:
    """The file of one seed of a recipe."""
    return results / f"{recipe.name}.seed-{recipe.seed}.json"


def load(path: Path) -> Result:
    """Read a results file.

    Raises:
        StageError: it is not one.
    """
    try:
        return Result.model_validate_json(path.read_text())
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        reason = ": ".join(first_error(error))
        raise StageError(f"{path}: not a result of `laconic-train experiment` ({reason})") from None


def base_outcomes(recipe: Recipe) -> Path:
    """Where the experiments of a seed that split thinking alike keep the outcomes of their base."""
    dense = recipe.family.dense_reward or DenseReward()
    alike = fingerprint_of(json.dumps(outcomes.splitting(dense)))[:8]
    return recipe.run_dir.absolute().parents[1] / "base" / f"{recipe.run_dir.name}-{alike}"


def measures(sampled: Sequence[Graded], greedy: Sequence[Graded]) -> Measures:
    """Every figure of one checkpoint, overall and by difficulty."""
    found: Measures = {}
    for part in ("overall", *figures.difficulties(sampled)):
        hot, cold = ([row for row in rows if part in ("overall", row.difficulty)] for rows in (sampled, greedy))
        found[f"accuracy, {part}"] = _mean(hot, lambda row: row.accuracy)
        found[f"tokens, {part}"] = _mean(hot, lambda row: row.reasoning_tokens)
        found[f"greedy accuracy, {part}"] = _mean(cold, lambda row: row.accuracy)
        found[f"greedy tokens, {part}"] = _mean(cold, lambda row: row.reasoning_tokens)
        found[f"second episodes after a right first, {part}"] = second_episodes(hot, first_right=True)
        found[f"second episodes after a wrong first, {part}"] = second_episodes(hot, first_right=False)
    return found


def second_episodes(rows: Sequence[Graded], *, first_right: bool) -> float | None:
    """Share of rollouts that think on after a first episode that was right, or wrong, by itself; None where none was.

    Right is: the model would have given the right answer with more than half its probability.
    """
    kept = [
        outcome.episodes > 1
        for row in rows
        for outcome in row.outcomes
        if outcome.after_first is not None and (outcome.after_first > 0.5) == first_right
    ]
    return float(np.mean(kept)) if kept else None


def noted(trainings: Sequence[Path]) -> tuple[Episode, ...]:
    """Up to `NOTED` of the episodes that the trainer noted, evenly."""
    found: list[Episode] = []
    for directory in trainings:
        for row in map(json.loads, (directory / "episodes.jsonl").read_text().splitlines()):
            found += [(int(k), g, c) for k, g, c in zip(row["episode"], row["gain"], row["compression"], strict=True)]
    return tuple(found[:: max(1, -(-len(found) // NOTED))])


def _made_from(recipe: Recipe) -> dict[str, Any]:
    return {
        **stages.family_record(recipe),
        "alphas": recipe.family.alphas,
        "prompts": recipe.evaluate.prompts,
        "samples": recipe.evaluate.samples,
    }


def _mean(rows: Sequence[Graded], of: Callable[[Graded], float]) -> float:
    return float(np.mean([of(row) for row in rows]))
