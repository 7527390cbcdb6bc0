"""What did each reward buy? Experiments' results in one table, pictures and words.

Every figure is a mean over seeds with a 95 % t-interval over the seeds' means: each seed is a training of its own,
measured on prompts of its own, and arms of one seed share both prompts, so differences are taken seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
from scipy.stats import t as student

from models.family import Estimate
from models.files import write_json, write_text
from training.config import Reward
from training.errors import StageError
from training.experiments import experiment
from training.experiments.experiment import Measures, Result
from training.job.record import first_difference
from training.publish import plots

Figures = dict[str, Estimate | None]
_ORDER = get_args(Reward)
_PLAIN = ("outcome", "alpha")


@dataclass(frozen=True)
class Arm:
    """A recipe's checkpoint at one alpha: its figures by seed."""

    recipe: str
    reward: Reward | None
    alpha: float | None
    by_seed: tuple[Measures, ...]

    @property
    def name(self) -> str:
        return self.recipe if self.alpha is None else f"{self.recipe} {self.alpha:g}"

    @property
    def figures(self) -> Figures:
        """Every figure with its interval over seeds; None where a seed had nothing to measure."""
        found: Figures = {}
        for name in self.by_seed[0]:
            values = [measures[name] for measures in self.by_seed]
            there = [value for value in values if value is not None]
            found[name] = _possible(name, over_seeds(there)) if len(there) == len(values) else None
        return found


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


def _possible(figure: str, found: Estimate) -> Estimate:
    """The interval within what the figure can be: tokens are not negative, all others are shares."""
    highest = math.inf if "tokens" in figure else 1.0
    return Estimate(mean=found.mean, low=max(0.0, found.low), high=min(highest, found.high))


def difference(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` minus `other`, seed by seed."""
    pairs = zip(arm.by_seed, other.by_seed, strict=True)
    return over_seeds([own[figure] - theirs[figure] for own, theirs in pairs])  # pyright: ignore[reportOperatorIssue]


def ratio(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` as a share of `other`, seed by seed."""
    pairs = zip(arm.by_seed, other.by_seed, strict=True)
    return over_seeds([own[figure] / theirs[figure] for own, theirs in pairs])  # pyright: ignore[reportOperatorIssue]


def beyond_the_line(arm: Arm, plain: Sequence[Arm]) -> Estimate | None:
    """Accuracy of `arm` less that of the plain checkpoints at equal tokens, seed by seed.

    The plain ones are joined by straight lines over their tokens; None where a seed's arm lies beside all of them.
    """
    found: list[float] = []
    for seed, own in enumerate(arm.by_seed):
        tokens, accuracy = _tokens_and_accuracy(own)
        points = sorted(_tokens_and_accuracy(other.by_seed[seed]) for other in plain)
        if not points or not points[0][0] <= tokens <= points[-1][0]:
            return None
        found.append(accuracy - float(np.interp(tokens, *zip(*points, strict=True))))
    return over_seeds(found)


def _tokens_and_accuracy(measures: Measures) -> tuple[float, float]:
    tokens, accuracy = measures["tokens, overall"], measures["accuracy, overall"]
    assert tokens is not None
    assert accuracy is not None
    return tokens, accuracy


def write(results: Path, out: Path) -> None:
    """Write report.md, figures.json and the plots into `out`, from every results file in `results`.

    Raises:
        StageError: there are none, or they cannot be compared; says why.
    """
    by_recipe = _read(results)
    arms = _arms(by_recipe)
    found = {arm.name: arm.figures for arm in arms}
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "figures.json",
        {name: {key: value and value.model_dump() for key, value in parts.items()} for name, parts in found.items()},
    )
    shown = {arm.name: (arm.recipe, found[arm.name]) for arm in arms}
    first = next(iter(by_recipe.values()))[0]
    plots.arms(shown, ("overall", *first.difficulties), out / "frontier.png")
    plots.checks(shown, first.difficulties, out / "checks.png")
    dense = {
        name: [episode for result in seeds for episode in result.episodes]
        for name, seeds in by_recipe.items()
        if seeds[0].episodes
    }
    charged = {name: episodes for name, episodes in dense.items() if any(cost for *_, cost in episodes)}
    pictures: list[str] = []
    if dense:
        pictures.append("![gain by episode](gain-by-episode.png)")
        plots.gain_by_episode(dense, out / "gain-by-episode.png")
    if charged:
        pictures.append("![gain against compression](gain-against-compression.png)")
        plots.gain_against_compression(charged, out / "gain-against-compression.png")
    write_text(out / "report.md", _text(arms, found, first, pictures))


def read_arms(results: Path) -> list[Arm]:
    """Every arm of the results in a directory, the base first.

    Raises:
        StageError: there are none, or they cannot be compared; says why.
    """
    return _arms(_read(results))


def _read(directory: Path) -> dict[str, list[Result]]:
    """Results by recipe, each in the order of its seeds."""
    paths = sorted(directory.glob("*.json"))
    if not paths:
        raise StageError(f"{directory}: there are no results; laconic-train experiment makes them")
    results = sorted(
        (experiment.load(path) for path in paths), key=lambda r: (_ORDER.index(r.reward), r.recipe, r.seed)
    )
    by_recipe: dict[str, list[Result]] = {}
    for result in results:
        by_recipe.setdefault(result.recipe, []).append(result)
    first = _require_same_seeds(directory, by_recipe)
    shared = {"base", "prompts", "samples", "data", "steps", "prompts_per_step", "rollouts", "max_tokens", "dtype"}
    for own in by_recipe.values():
        for other in own[1:]:
            _require_alike(directory, own[0], other, own[0].made_from.keys() | other.made_from.keys())
        _require_alike(directory, results[0], own[0], shared)
        for one, other in zip(by_recipe[first], own, strict=True):
            _require_comparable(directory, one, other)
    return by_recipe


def _require_same_seeds(directory: Path, by_recipe: Mapping[str, Sequence[Result]]) -> str:
    """Each recipe has the same ones, each once; the first recipe's name."""
    seeds = {name: [result.seed for result in found] for name, found in by_recipe.items()}
    for name, own in seeds.items():
        if twice := sorted({seed for seed in own if own.count(seed) > 1}):
            raise StageError(f"{directory}: seed {twice[0]} of {name} is there more than once; keep one of the files")
    first = next(iter(seeds))
    for name, own in seeds.items():
        if own != seeds[first]:
            raise StageError(f"{directory}: {first} was run with the seeds {seeds[first]}, {name} with {own}")
    if len(seeds[first]) < 2:
        raise StageError(f"{directory}: intervals over seeds need at least two seeds, there is {seeds[first]}")
    return first


def _require_comparable(directory: Path, one: Result, other: Result) -> None:
    """Both measured the base to the same figures, and all that is compared of either."""
    where = f"{directory}: {other.recipe}, seed {other.seed}"
    if one.checkpoints.get("base") != other.checkpoints.get("base"):
        raise StageError(
            f"{where}, has other figures of the base than {one.recipe}: measured another way, or elsewhere"
        )
    if missing := {"base", *other.alphas} ^ other.checkpoints.keys():
        raise StageError(f"{where}: {min(missing)} is either in alphas or in checkpoints")
    if one.difficulties != other.difficulties:
        raise StageError(f"{where}, has the difficulties {other.difficulties}, {one.recipe} {one.difficulties}")
    wanted = one.checkpoints["base"].keys()
    for name, measures in other.checkpoints.items():
        if missing := wanted ^ measures.keys():
            raise StageError(f"{where}: {name} has no {min(missing)!r}")
        if empty := [key for key, value in measures.items() if value is None and "second" not in key]:
            raise StageError(f"{where}: {name} has nothing for {empty[0]!r}")


def _require_alike(directory: Path, one: Result, other: Result, keys: Set[str]) -> None:
    before, now = ({key: each.made_from.get(key) for key in keys if key != "seed"} for each in (one, other))
    if changed := first_difference(before, now):
        names = [f"{each.recipe}, seed {each.seed}" for each in (one, other)]
        raise StageError(f"{directory}: {names[0]}, and {names[1]}, were made with {changed}")


def _arms(by_recipe: Mapping[str, Sequence[Result]]) -> list[Arm]:
    some = next(iter(by_recipe.values()))
    arms = [Arm("base", None, None, tuple(result.checkpoints["base"] for result in some))]
    for recipe, seeds in by_recipe.items():
        arms += [
            Arm(recipe, seeds[0].reward, alpha, tuple(result.checkpoints[name] for result in seeds))
            for name, alpha in seeds[0].alphas.items()
        ]
    return arms


def _text(arms: Sequence[Arm], found: Mapping[str, Figures], some: Result, pictures: Sequence[str]) -> str:
    lines = [
        "# What each reward bought",
        "",
        f"{len(arms[0].by_seed)} seeds, {some.made_from['prompts']} held-out prompts each, 95 % intervals over seeds.",
        "`laconic-train report` writes this page from the results of `laconic-train experiment`.",
        "",
        "![accuracy against reasoning tokens](frontier.png)",
        "",
        "| reward, alpha | tokens | accuracy | greedy tokens | greedy accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        f = found[arm.name]
        lines.append(
            f"| {arm.name} | {_count(f['tokens, overall'])} | {_share(f['accuracy, overall'])} "
            f"| {_count(f['greedy tokens, overall'])} | {_share(f['greedy accuracy, overall'])} |"
        )
    lines += ["", "**Beside the base**, seed by seed", "", *_beside(arms), "", *_recommended(arms)]
    if falls := _falls(arms):
        lines += ["", "**As alpha rises**", "", *falls]
    for part in some.difficulties:
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
    lines += ["", "![share of rollouts that go on after their first episode](checks.png)"]
    side_by_side = [part for part in (_side_by_side(arms, some.difficulties[-1]), _at_equal_tokens(arms)) if part]
    if side_by_side:
        lines += ["", "## Side by side"]
    for part in side_by_side:
        lines += ["", *part]
    if pictures:
        lines += ["", "## What the dense reward saw"]
    for picture in pictures:
        lines += ["", picture]
    return "\n".join(lines) + "\n"


def _beside(arms: Sequence[Arm]) -> list[str]:
    """Every arm's tokens as a share of the base's, and its accuracy less the base's, sampled and greedy."""
    base, *trained = arms
    rows = [
        "| reward, alpha | share of its tokens | points of accuracy | share, greedy | points, greedy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm in trained:
        cells = [
            _share(ratio(arm, base, f"{kind}tokens, overall"))
            + " | "
            + _points(difference(arm, base, f"{kind}accuracy, overall"))
            for kind in ("", "greedy ")
        ]
        rows.append(f"| {arm.name} | {' | '.join(cells)} |")
    return rows


def _recommended(arms: Sequence[Arm]) -> list[str]:
    """The shortest arm that is as right as the base, sampled and greedily: by the means, and as far as can be told."""
    base, *trained = arms
    bars: dict[str, Callable[[Estimate], bool]] = {
        "that is right at least as often as the base on average": lambda change: change.mean >= 0,
        "that is not shown to be right less often (its intervals reach 0)": lambda change: change.high >= 0,
    }
    lines: list[str] = []
    for words, passes in bars.items():
        good = [
            arm
            for arm in trained
            if all(passes(difference(arm, base, f"{kind}accuracy, overall")) for kind in ("", "greedy "))
        ]
        if good:
            best = min(good, key=lambda arm: ratio(arm, base, "tokens, overall").mean)
            found = f"**{best.name}**, with {_share(ratio(best, base, 'tokens, overall'))} of its tokens"
        else:
            found = "none"
        lines.append(f"- The shortest {words}, sampled and greedily: {found}.")
    return lines


def _falls(arms: Sequence[Arm]) -> list[str]:
    """How tokens change from each alpha of a recipe to its next."""
    lines: list[str] = []
    for recipe in dict.fromkeys(arm.recipe for arm in arms):
        own = sorted((arm for arm in arms if arm.recipe == recipe and arm.alpha is not None), key=lambda arm: arm.alpha)
        steps = [(a, b, difference(b, a, "tokens, overall")) for a, b in pairwise(own)]
        if not steps:
            continue
        falls = "fall at every step" if all(change.mean < 0 for *_, change in steps) else "do not fall at every step"
        words = [f"{a.alpha:g} to {b.alpha:g}: {_change(change)}" for a, b, change in steps]
        lines.append(f"- {recipe}: tokens {falls}, {', '.join(words)}")
    return lines


def _at_equal_tokens(arms: Sequence[Arm]) -> list[str]:
    """Each dense reward against the line through the checkpoints without one, the base included."""
    plain = [arm for arm in arms if arm.reward is None or arm.reward in _PLAIN]
    lines: list[str] = []
    for arm in (arm for arm in arms if arm not in plain):
        if found := beyond_the_line(arm, plain):
            lines.append(f"| {arm.name} | {_points(found)} | {_verdict(found)} |")
        else:
            lines.append(f"| {arm.name} | spends more, or less, than any of them | |")
    if not lines:
        return []
    return [
        "**At equal tokens**: points of accuracy beyond the line through base, outcome and alpha, seed by seed",
        "",
        "| reward, alpha | points | |",
        "| --- | --- | --- |",
        *lines,
    ]


def _pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Each dense reward beside those without it, and without its charge, at the same alpha; and beside the plain one
    that thinks most nearly as long."""
    plain = [arm for arm in arms if arm.reward in _PLAIN]
    dense = [arm for arm in arms if arm.reward is not None and arm.reward not in _PLAIN]
    pairs: list[tuple[Arm, Arm]] = []
    for arm in dense:
        uncharged = [other for other in dense if (arm.reward, other.reward) == ("l2t", "progress")]
        others = [other for other in (*plain, *uncharged) if other.alpha == arm.alpha]
        near = sorted(plain, key=lambda other: abs(difference(arm, other, "tokens, overall").mean))[:1]
        pairs += [(arm, other) for other in others]
        pairs += [(arm, other) for other in near if all(other is not one for one in others)]
    return pairs


def _side_by_side(arms: Sequence[Arm], hardest: str) -> list[str]:
    figures = ("tokens, overall", "accuracy, overall", "greedy accuracy, overall", f"tokens, {hardest}")
    figures = (*figures, f"accuracy, {hardest}")
    rows: list[str] = []
    for arm, other in _pairs(arms):
        changes = [(figure, difference(arm, other, figure)) for figure in figures]
        cells = [_change(change) if "tokens" in figure else _points(change) for figure, change in changes]
        bold = [
            cell if change.low <= 0 <= change.high else f"**{cell}**"
            for cell, (_, change) in zip(cells, changes, strict=True)
        ]
        rows.append(f"| {' | '.join([arm.name, other.name, *bold])} |")
    if not rows:
        return []
    return [
        "Each dense reward beside those without it, and without its charge, at the same alpha; and the plain one",
        "that thinks most nearly as long. Bold: the interval does not reach 0, so a difference is shown.",
        "",
        f"| reward, alpha | beside | tokens | points of accuracy | greedily | tokens, {hardest} | points, {hardest} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _verdict(value: Estimate) -> str:
    return "no difference shown" if value.low <= 0 <= value.high else "a difference"


def _points(value: Estimate) -> str:
    return _change(Estimate(mean=100 * value.mean, low=100 * value.low, high=100 * value.high))


def _change(value: Estimate) -> str:
    return f"{value.mean:+.1f} ({value.low:+.1f} to {value.high:+.1f})"


def _count(value: Estimate | None) -> str:
    return f"{value.mean:.1f} ({value.low:.1f} to {value.high:.1f})" if value else "none"


def _share(value: Estimate | None) -> str:
    if value is None:
        return "none"
    if value.low == value.high:  # all seeds alike, which says nothing of others
        return f"{100 * value.mean:.1f} %"
    return f"{100 * value.mean:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"
