"""Can these results be compared? Reads all results of a directory and checks that they fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import get_args

from training.config import Reward
from training.errors import StageError
from training.experiments import experiment
from training.experiments.experiment import Result
from training.job.record import first_difference

_ORDER = get_args(Reward)


def read_comparable(directory: Path) -> dict[str, list[Result]]:
    """The results by recipe, each in the order of its seeds.

    All recipes have the same settings of data, base, rollouts and evaluation, and the same steps. Only one that learns
    to decide (`family.deciding`) may have fewer steps, because it spends rollouts on that, too.

    Raises:
        StageError: there are none, or they cannot be compared. Names the recipe and the difference.
    """
    paths = sorted(directory.glob("*.json"))
    if not paths:
        raise StageError(f"{directory}: there are no results; run `laconic-train experiment` to make them")
    results = sorted(
        (experiment.load(path) for path in paths), key=lambda r: (_ORDER.index(r.reward), r.recipe, r.seed)
    )
    by_recipe: dict[str, list[Result]] = {}
    for result in results:
        by_recipe.setdefault(result.recipe, []).append(result)
    _require_common_seeds(directory, by_recipe)
    shared = {"base", "prompts", "samples", "data", "prompts_per_step", "rollouts", "max_tokens", "dtype"}
    of_seed: dict[int, Result] = {}
    for own in by_recipe.values():
        for other in own[1:]:
            _require_alike(directory, own[0], other, own[0].made_from.keys() | other.made_from.keys())
        _require_alike(directory, results[0], own[0], shared)
        for result in own:
            _require_comparable(directory, of_seed.setdefault(result.seed, result), result)
    reinforced = [own[0] for own in by_recipe.values() if not own[0].made_from.get("deciding")]
    for result in reinforced:
        _require_alike(directory, reinforced[0], result, {"steps"})
    return by_recipe


def _require_common_seeds(directory: Path, by_recipe: Mapping[str, Sequence[Result]]) -> None:
    """Raise unless all recipes have two seeds in common, and none has a seed twice."""
    seeds = {name: [result.seed for result in own] for name, own in by_recipe.items()}
    common = set.intersection(*map(set, seeds.values()))
    for name, own in seeds.items():
        if twice := sorted({seed for seed in own if own.count(seed) > 1}):
            raise StageError(
                f"{directory}: seed {twice[0]} of {name} is there more than once; remove all but one of the files"
            )
    if len(common) < 2:
        runs = ", ".join(f"{name} with {own}" for name, own in seeds.items())
        raise StageError(
            f"{directory}: intervals over seeds need at least two seeds that all recipes have; there are {runs}"
        )


def _require_comparable(directory: Path, one: Result, other: Result) -> None:
    """Raise unless both report the same base figures and the same keys."""
    where = f"{directory}: {other.recipe}, seed {other.seed}"
    if one.checkpoints.get("base") != other.checkpoints.get("base"):
        raise StageError(
            f"{where}, has other figures of the base than {one.recipe}: measured with other settings or elsewhere"
        )
    if missing := {"base", *other.alphas} ^ other.checkpoints.keys():
        raise StageError(f"{where}: {min(missing)} is in only one of alphas and checkpoints")
    if one.difficulties != other.difficulties:
        raise StageError(f"{where}, has the difficulties {other.difficulties}, {one.recipe} {one.difficulties}")
    required = one.checkpoints["base"].keys()
    for name, measures in other.checkpoints.items():
        if missing := required ^ measures.keys():
            raise StageError(f"{where}: {name} has no {min(missing)!r}")
        if empty := [key for key, value in measures.items() if value is None and "second" not in key]:
            raise StageError(f"{where}: {name} has nothing for {empty[0]!r}")


def _require_alike(directory: Path, one: Result, other: Result, keys: Set[str]) -> None:
    """Raise unless both were made with the same values of these keys."""
    left, right = ({key: each.made_from.get(key) for key in keys if key != "seed"} for each in (one, other))
    if changed := first_difference(left, right):
        names = [f"{each.recipe}, seed {each.seed}" for each in (one, other)]
        raise StageError(
            f"{directory}: {names[0]}, and {names[1]}, differ in {changed.key}: {changed.before} and {changed.after}"
        )
