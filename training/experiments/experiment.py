"""What is the result of one seed of an experiment? Trains and measures one reward's family, and writes a small file.

A results file has every figure that the report compares, so it can be kept and compared with others after the run is
deleted. An experiment whose results file exists is not run again.
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
from training.config import Recipe, Reward, checkpoint_name
from training.errors import StageError
from training.job import checkpoints
from training.job.record import fingerprint_of, first_difference, require_up_to_date
from training.measure import figures, outcomes
from training.recipe_base import PretrainedBase
from training.tasks import outcome
from training.tasks.outcome import Graded
from training.tasks.source import questions

Measures = dict[str, float | None]
"""By "tokens, hard", "greedy accuracy, overall" and so on; None if there was nothing to measure."""
Episode = tuple[int, float, float]
"""Its number in the rollout from 1, its gain and its charge."""
MAX_EPISODES = 600
"""Maximum number of episodes in a results file."""
_console = Console(stderr=True)


class Result(BaseModel):
    """The results of one seed of one recipe."""

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
    """The alpha of each checkpoint except the base."""
    episodes: tuple[Episode, ...]
    """A sample of the episodes that the trainer logged; empty without a dense reward."""


def run(recipe: Recipe, results: Path) -> None:
    """Train and measure the family of one reward, and write its results file, unless it exists.

    Checkpoints are measured on held-out prompts at temperature 1, with P(gold answer) after the first episode, and
    greedily. The base, which experiments share, is measured once.

    Raises:
        StageError: the results file exists and is of another experiment.
    """
    path, made_from = path_in(results, recipe), _made_from(recipe)
    if path.exists():
        if changed := first_difference(load(path).made_from, made_from):
            raise StageError(
                f"{path} is of another experiment: {changed.key} changed from {changed.before} to {changed.after};"
                " remove it to run this one"
            )
        _console.print(f"{path} is up to date")
        return
    stages.family(recipe)
    prompts = questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    measured: dict[str, Measures] = {}
    for name in checkpoints.names(recipe):
        directory = base_outcomes(recipe) if name == "base" else recipe.run_dir / "evaluate"
        sampled, greedy = outcomes.path_in(directory, name), outcomes.path_in(directory, name, greedy=True)
        params = outcomes.sampling_params(recipe, samples=recipe.evaluate.samples, temperature=1.0)
        outcomes.measure(recipe, name, prompts, sampled, params, first_episode=recipe.probe)
        outcomes.measure(recipe, name, prompts, greedy, outcomes.sampling_params(recipe, samples=1, temperature=0.0))
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
        episodes=sampled_episodes(
            [checkpoints.trained_path(recipe, name).parent for name in checkpoints.names(recipe)[1:]]
            if recipe.family.dense_reward
            else []
        ),
    )
    write_json(path, result.model_dump(mode="json"))


def check(recipes: Sequence[Recipe], results: Path) -> None:
    """Raise unless all of these experiments can run.

    Raises:
        StageError: a recipe trains a base of its own or measures at another temperature than 1; two recipes would
            write the same file, share outcomes of the base that differ, or have other probes; or something is missing.
            Names it.
    """
    files: dict[Path, Recipe] = {}
    shared: dict[Path, dict[str, Any]] = {}
    for recipe in recipes:
        if not isinstance(recipe.base, PretrainedBase):
            raise StageError(
                f"{recipe.name}: an experiment compares rewards on one pretrained base; name it in base.model"
            )
        if recipe.evaluate.temperature != 1:
            raise StageError(
                f"{recipe.name}: evaluate.temperature must be 1, because experiments measure at 1 and greedily"
            )
        if (path := path_in(results, recipe)) in files:
            raise StageError(
                f"{recipe.name}, seed {recipe.seed}: two recipes with this name would write {path}; rename one"
            )
        files[path] = recipe
        _require_one_probe(recipe, recipes[0])
        if path.exists():
            continue
        checks.check(recipe)
        checks.require_probes(recipe, f"{recipe.name}: the first episode's P(answer)")
        params = outcomes.sampling_params(recipe, samples=recipe.evaluate.samples, temperature=1.0)
        prompts = recipe.evaluate.prompts
        of_base = outcomes.record(recipe, "base", params, prompts=prompts, first_episode=recipe.probe)
        if (measured := outcomes.path_in(base_outcomes(recipe), "base")).exists():
            require_up_to_date(measured, of_base)
        if changed := first_difference(shared.setdefault(base_outcomes(recipe), of_base), of_base):
            raise StageError(
                f"{recipe.name}: experiments whose run_dirs share a parent measure their base once, and they differ in"
                f" {changed.key}: {changed.before} and {changed.after}; give this one a run_dir with another parent"
            )


def path_in(results: Path, recipe: Recipe) -> Path:
    """The results file of one seed of a recipe."""
    return results / f"{recipe.name}.seed-{recipe.seed}.json"


def load(path: Path) -> Result:
    """Read a results file.

    Raises:
        StageError: the file cannot be read, or is not a results file.
    """
    try:
        return Result.model_validate_json(path.read_text())
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        reason = ": ".join(first_error(error))
        raise StageError(f"{path}: not a result of `laconic-train experiment` ({reason})") from None


def base_outcomes(recipe: Recipe) -> Path:
    """The directory for the base's outcomes; experiments with the same seed and split of episodes share it."""
    split = fingerprint_of(json.dumps(outcomes.splitting(recipe.probe)))[:8]
    return recipe.run_dir.absolute().parents[1] / "base" / f"{recipe.run_dir.name}-{split}"


def measures(sampled: Sequence[Graded], greedy: Sequence[Graded]) -> Measures:
    """Every figure of one checkpoint, overall and by difficulty."""
    measured: Measures = {}
    for part in ("overall", *figures.difficulties(sampled)):
        at_1, at_0 = ([row for row in rows if part in ("overall", row.difficulty)] for rows in (sampled, greedy))
        measured[f"accuracy, {part}"] = _mean(at_1, lambda row: row.accuracy)
        measured[f"tokens, {part}"] = _mean(at_1, lambda row: row.reasoning_tokens)
        measured[f"greedy accuracy, {part}"] = _mean(at_0, lambda row: row.accuracy)
        measured[f"greedy tokens, {part}"] = _mean(at_0, lambda row: row.reasoning_tokens)
        measured[f"second episodes after a right first, {part}"] = second_episodes(at_1, first_right=True)
        measured[f"second episodes after a wrong first, {part}"] = second_episodes(at_1, first_right=False)
    return measured


def second_episodes(rows: Sequence[Graded], *, first_right: bool) -> float | None:
    """Share of rollouts that continue after a first episode that was correct, or wrong; None if there are none.

    A first episode is correct if P(gold answer) after it is above 0.5.
    """
    continues = [
        outcome.episodes > 1
        for row in rows
        for outcome in row.outcomes
        if outcome.after_first is not None and (outcome.after_first > 0.5) == first_right
    ]
    return float(np.mean(continues)) if continues else None


def sampled_episodes(trainings: Sequence[Path]) -> tuple[Episode, ...]:
    """Up to `MAX_EPISODES` of the episodes that the trainer logged, evenly spaced."""
    episodes: list[Episode] = []
    for directory in trainings:
        for row in map(json.loads, (directory / "episodes.jsonl").read_text().splitlines()):
            episodes += [
                (int(k), g, c) for k, g, c in zip(row["episode"], row["gain"], row["compression"], strict=True)
            ]
    return tuple(episodes[:: max(1, -(-len(episodes) // MAX_EPISODES))])


def _made_from(recipe: Recipe) -> dict[str, Any]:
    """Everything that the figures depend on."""
    return {
        **stages.family_record(recipe),
        "alphas": recipe.family.alphas,
        "prompts": recipe.evaluate.prompts,
        "samples": recipe.evaluate.samples,
        **recipe.probe_record,
    }


def _require_one_probe(recipe: Recipe, other: Recipe) -> None:
    """Raise unless what follows the first episode is measured alike in both, or the report could not compare them."""
    own, others = (outcomes.splitting(each.probe) for each in (recipe, other))
    if changed := first_difference(others, own):
        raise StageError(
            f"{recipe.name}: family.dense.{changed.key} must be as in the other recipes of an experiment, whose report"
            f" compares what follows the first episode; it is {changed.after}, and in {other.name} {changed.before}"
        )


def _mean(rows: Sequence[Graded], of: Callable[[Graded], float]) -> float:
    return float(np.mean([of(row) for row in rows]))
