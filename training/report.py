"""What did each reward buy? The experiments' outcomes in one table, pictures and words.

Every figure is a mean over seeds with a 95 % t-interval over the seeds' means: each seed is a training of its own,
measured on prompts of its own, and arms of one seed share both prompts, so differences are taken seed by seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from models.family import Estimate
from training import evaluate as measuring
from training import plots, stages
from training.config import Recipe, checkpoint_name
from training.errors import StageError
from training.evaluate import Judged
from training.record import write_json, write_text

Figures = dict[str, Estimate | None]


@dataclass(frozen=True)
class Arm:
    """A recipe's checkpoint at one alpha: its outcomes by seed, sampled at temperature 1 and greedily."""

    recipe: str
    reward: str | None
    alpha: float | None
    sampled: tuple[Sequence[Judged], ...]
    greedy: tuple[Sequence[Judged], ...]

    @property
    def name(self) -> str:
        return self.recipe if self.alpha is None else f"{self.recipe} {self.alpha:g}"


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed, and its 95 % t-interval; at least two seeds.

    Raises:
        ValueError: fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two, got {len(values)}")
    mean = float(np.mean(values))
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def accuracy(rows: Sequence[Judged]) -> float:
    """pass@1."""
    return float(np.mean([row.accuracy for row in rows]))


def tokens(rows: Sequence[Judged]) -> float:
    """Mean reasoning tokens."""
    return float(np.mean([row.reasoning_tokens for row in rows]))


def second_episodes(rows: Sequence[Judged], *, first_right: bool) -> float:
    """Share of rollouts that think on after a first episode that was right, or wrong, by itself; nan where none was.

    Right is: the model would have given the right answer with more than half its probability.
    """
    kept = [
        outcome.episodes > 1
        for row in rows
        for outcome in row.outcomes
        if outcome.after_first is not None and (outcome.after_first > 0.5) == first_right
    ]
    return float(np.mean(kept)) if kept else float("nan")


def figures(arm: Arm) -> Figures:
    """Every figure of an arm by its name, with its interval over seeds; None where a seed had nothing to measure."""
    measures: dict[str, Callable[[Sequence[Judged]], float]] = {
        "accuracy": accuracy,
        "tokens": tokens,
        "second episodes after a right first": lambda rows: second_episodes(rows, first_right=True),
        "second episodes after a wrong first": lambda rows: second_episodes(rows, first_right=False),
    }
    found: Figures = {}
    for part in ("overall", *measuring.difficulties(arm.sampled[0])):
        for name, measure in measures.items():
            values = [measure(_part(rows, part)) for rows in arm.sampled]
            found[f"{name}, {part}"] = over_seeds(values) if np.isfinite(values).all() else None
        found[f"greedy accuracy, {part}"] = over_seeds([accuracy(_part(rows, part)) for rows in arm.greedy])
        found[f"greedy tokens, {part}"] = over_seeds([tokens(_part(rows, part)) for rows in arm.greedy])
    return found


def difference(arm: Arm, other: Arm, measure: Callable[[Sequence[Judged]], float], part: str = "overall") -> Estimate:
    """`arm` minus `other`, seed by seed."""
    pairs = zip(arm.sampled, other.sampled, strict=True)
    return over_seeds([measure(_part(own, part)) - measure(_part(theirs, part)) for own, theirs in pairs])


def write(recipes: Sequence[Recipe], seeds: Sequence[int], out: Path) -> None:
    """Write report.md, figures.json and the plots into `out`.

    Raises:
        StageError: an experiment is missing or was not measured; names it.
    """
    if len(seeds) < 2:
        raise StageError(f"--seed: intervals over seeds need at least two, got {len(seeds)}")
    names = [recipe.name for recipe in recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StageError(f"two recipes are called {twice[0]}: the report could not tell them apart")
    arms = [_base(recipes[0], seeds)] + [
        _arm(recipe, alpha, seeds) for recipe in recipes for alpha in recipe.family.alphas
    ]
    found = {arm.name: figures(arm) for arm in arms}
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "figures.json",
        {name: {key: value and value.model_dump() for key, value in parts.items()} for name, parts in found.items()},
    )
    shown = {arm.name: (arm.recipe, found[arm.name]) for arm in arms}
    difficulties = measuring.difficulties(arms[0].sampled[0])
    plots.arms(shown, ("overall", *difficulties), out / "frontier.png")
    plots.checks(shown, difficulties, out / "checks.png")
    dense = {r.name: _episodes(_trainings(r, seeds)) for r in recipes if r.family.dense_reward}
    charged = {r.name: dense[r.name] for r in recipes if r.family.reward == "l2t"}
    pictures: list[str] = []
    if dense:
        pictures.append("![gain by episode](gain-by-episode.png)")
        plots.gain_by_episode(dense, out / "gain-by-episode.png")
    if charged:
        pictures.append("![gain against compression](gain-against-compression.png)")
        plots.gain_against_compression(charged, out / "gain-against-compression.png")
    write_text(out / "report.md", _text(arms, found, seeds, pictures))


def _text(arms: Sequence[Arm], found: Mapping[str, Figures], seeds: Sequence[int], pictures: Sequence[str]) -> str:
    prompts = len(arms[0].sampled[0])
    base_tokens = np.mean([tokens(rows) for rows in arms[0].sampled])
    lines = [
        "# What each reward bought",
        "",
        f"{len(seeds)} seeds, {prompts} held-out prompts each, with 95 % t-intervals over the seeds.",
        "`laconic-train report` writes this page from the runs of `laconic-train experiment`.",
        "",
        "![accuracy against reasoning tokens](frontier.png)",
        "",
        "| reward, alpha | tokens | of the base's | accuracy | greedy accuracy | greedy tokens |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        f, share = found[arm.name], np.mean([tokens(rows) for rows in arm.sampled]) / base_tokens
        lines.append(
            f"| {arm.name} | {_count(f['tokens, overall'])} | {share:.0%} "
            f"| {_share(f['accuracy, overall'])} | {_share(f['greedy accuracy, overall'])} "
            f"| {_count(f['greedy tokens, overall'])} |"
        )
    for part in measuring.difficulties(arms[0].sampled[0]):
        lines += [
            "",
            f"**{part}**",
            "",
            "| reward, alpha | tokens | accuracy | goes on after a right first episode | after a wrong one |",
            "| --- | --- | --- | --- | --- |",
        ]
        for arm in arms:
            f = found[arm.name]
            lines.append(
                f"| {arm.name} | {_count(f[f'tokens, {part}'])} | {_share(f[f'accuracy, {part}'])} "
                f"| {_share(f[f'second episodes after a right first, {part}'])} "
                f"| {_share(f[f'second episodes after a wrong first, {part}'])} |"
            )
    lines += ["", "![share of rollouts that go on after their first episode](checks.png)", "", "## Side by side", ""]
    lines += [_compared(arm, other) for arm, other in _pairs(arms)]
    if pictures:
        lines += ["", "## What the dense reward saw"]
    for picture in pictures:
        lines += ["", picture]
    return "\n".join(lines) + "\n"


def _pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Each dense reward beside the reward without it at the same alpha."""
    plain = {arm.alpha: arm for arm in arms if arm.reward in {"outcome", "alpha"}}
    return [(arm, plain[arm.alpha]) for arm in arms if arm.alpha in plain and arm is not plain[arm.alpha]]


def _compared(arm: Arm, other: Arm) -> str:
    sentences = [f"**{arm.name}** against {other.name}:"]
    for part in ("overall", measuring.difficulties(arm.sampled[0])[-1]):
        where = "" if part == "overall" else f" on {part} prompts"
        spent, right = difference(arm, other, tokens, part), difference(arm, other, accuracy, part)
        sentences.append(
            f"{spent.mean:+.1f} tokens{where} ({spent.low:+.1f} to {spent.high:+.1f}; {_verdict(spent)}) and "
            f"{100 * right.mean:+.1f} points of accuracy ({100 * right.low:+.1f} to {100 * right.high:+.1f};"
            f" {_verdict(right)})" + ("," if part == "overall" else ".")
        )
    return "- " + " ".join(sentences)


def _verdict(value: Estimate) -> str:
    return "no difference shown" if value.low <= 0 <= value.high else "a difference"


def _base(recipe: Recipe, seeds: Sequence[int]) -> Arm:
    runs = [recipe.with_seed(seed) for seed in seeds]
    return Arm(
        "base",
        None,
        None,
        tuple(_load(stages.outcomes_path(stages.base_outcomes(run), "base")) for run in runs),
        tuple(_load(stages.outcomes_path(stages.base_outcomes(run), "base", greedy=True)) for run in runs),
    )


def _arm(recipe: Recipe, alpha: float, seeds: Sequence[int]) -> Arm:
    directories = [recipe.with_seed(seed).run_dir / "evaluate" for seed in seeds]
    name = checkpoint_name(alpha)
    return Arm(
        recipe.name,
        recipe.family.reward,
        alpha,
        tuple(_load(stages.outcomes_path(directory, name)) for directory in directories),
        tuple(_load(stages.outcomes_path(directory, name, greedy=True)) for directory in directories),
    )


def _trainings(recipe: Recipe, seeds: Sequence[int]) -> list[Path]:
    return [
        recipe.with_seed(seed).run_dir / "family" / checkpoint_name(alpha)
        for seed in seeds
        for alpha in recipe.family.alphas
    ]


def _episodes(directories: Sequence[Path]) -> list[tuple[int, float, float]]:
    """(episode from 1, gain, compression) of what the trainer noted; a step that was done twice counts once."""
    found: list[tuple[int, float, float]] = []
    for directory in directories:
        steps: dict[int, dict[str, list[float]]] = {}
        for line in (directory / "episodes.jsonl").read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:  # cut short by a kill
                continue
            steps[row["step"]] = row
        for row in steps.values():
            found += [
                (int(k), gain, cost)
                for k, gain, cost in zip(row["episode"], row["gain"], row["compression"], strict=True)
            ]
    return found


def _load(path: Path) -> list[Judged]:
    if not path.exists():
        raise StageError(f"{path} is missing; run the experiment first: laconic-train experiment")
    return measuring.load(path)


def _part(rows: Sequence[Judged], part: str) -> Sequence[Judged]:
    return rows if part == "overall" else [row for row in rows if row.difficulty == part]


def _count(value: Estimate | None) -> str:
    return f"{value.mean:.1f} ({value.low:.1f} to {value.high:.1f})" if value else "none"


def _share(value: Estimate | None) -> str:
    return f"{100 * value.mean:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})" if value else "none"
