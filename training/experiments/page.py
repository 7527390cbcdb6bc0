"""What does the report's page say? Tables and sentences in Markdown, from the arms of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import mode

from models.family import Estimate
from training.experiments.arms import (
    WRONG_MINUS_RIGHT,
    Arm,
    Figures,
    difference,
    gain_over_baseline_frontier,
    ratio,
)
from training.experiments.experiment import Result

_BASELINES = ("outcome", "alpha", "truncation", "solve_rate")
"""The rewards without a dense part."""


def page_of(
    arms: Sequence[Arm],
    figures: Mapping[str, Figures],
    by_recipe: Mapping[str, Sequence[Result]],
    pictures: Sequence[str],
) -> str:
    """The page as Markdown, from the arms of `by_recipe`; `pictures` come last."""
    any_result = next(iter(by_recipe.values()))[0]
    prompts = any_result.made_from["prompts"]
    lines = [
        "# What each reward bought",
        "",
        f"{_seeds(by_recipe)}, {prompts} held-out prompts each, 95 % intervals over seeds.",
        "`laconic-train report` writes this page from the results of `laconic-train experiment`.",
        *_deciding(by_recipe),
        "",
        "![accuracy against reasoning tokens](frontier.png)",
        "",
        *_overall_table(arms, figures),
        "",
        "**Compared with the base**, seed by seed",
        "",
        *_against_base(arms),
        "",
        *_recommended(arms),
    ]
    if changes := _token_trend(arms):
        lines += ["", "**As alpha rises**", "", *changes]
    for difficulty in any_result.difficulties:
        lines += ["", f"**{difficulty}**", "", *_difficulty_table(arms, figures, difficulty)]
    lines += ["", "![share of rollouts that continue after their first episode](checks.png)"]
    comparisons = [_side_by_side(arms, any_result.difficulties[-1]), _at_equal_tokens(arms)]
    if any(comparisons):
        lines += ["", "## Side by side"]
    for comparison in filter(None, comparisons):
        lines += ["", *comparison]
    if pictures:
        lines += ["", "## Episodes under the dense rewards"]
    for picture in pictures:
        lines += ["", picture]
    return "\n".join(lines) + "\n"


def _seeds(by_recipe: Mapping[str, Sequence[Result]]) -> str:
    """How many seeds the recipes have, and, if not all have as many, which have others."""
    counts = {recipe: len(own) for recipe, own in by_recipe.items()}
    usual = mode(counts.values())
    others = ", ".join(f"{count} of {recipe}" for recipe, count in counts.items() if count != usual)
    return f"{usual} seeds{f' ({others})' if others else ''}"


def _deciding(by_recipe: Mapping[str, Sequence[Result]]) -> list[str]:
    """A line for each recipe that learns to decide, which other recipes do not."""
    lines: list[str] = []
    for recipe, (first, *_) in by_recipe.items():
        if deciding := first.made_from.get("deciding"):
            order = "before that" if deciding.get("when") == "before" else "then"
            learned = f"{order} it learns to decide on {deciding['questions']:,} questions"
            lines += ["", f"{recipe} has {first.made_from['steps']} steps, and {learned}."]
    return lines


def _overall_table(arms: Sequence[Arm], figures: Mapping[str, Figures]) -> list[str]:
    rows = [
        "| reward, alpha | tokens | accuracy | greedy tokens | greedy accuracy |",
        "| --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        own = figures[arm.name]
        rows.append(
            f"| {arm.name} | {_count(own['tokens, overall'])} | {_share(own['accuracy, overall'])} "
            f"| {_count(own['greedy tokens, overall'])} | {_share(own['greedy accuracy, overall'])} |"
        )
    return rows


def _difficulty_table(arms: Sequence[Arm], figures: Mapping[str, Figures], difficulty: str) -> list[str]:
    rows = [
        "| reward, alpha | tokens | accuracy | continues after a right first episode | a wrong one | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        own = figures[arm.name]
        rows.append(
            f"| {arm.name} | {_count(own[f'tokens, {difficulty}'])} | {_share(own[f'accuracy, {difficulty}'])} "
            f"| {_share(own[f'second episodes after a right first, {difficulty}'])} "
            f"| {_share(own[f'second episodes after a wrong first, {difficulty}'])} "
            f"| {_points(own[f'{WRONG_MINUS_RIGHT}, {difficulty}'])} |"
        )
    return rows


def _against_base(arms: Sequence[Arm]) -> list[str]:
    """A table of every arm's tokens as a share of the base's, and its accuracy minus the base's, sampled and greedy."""
    base, *trained = arms
    rows = [
        "| reward, alpha | tokens, share of base | accuracy, points | greedy tokens, share | greedy accuracy, points |",
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
    """The shortest arm that is as accurate as the base, sampled and greedily: by the means, and by the intervals."""
    base, *trained = arms
    bars: dict[str, Callable[[Estimate], bool]] = {
        "that is at least as accurate as the base on average": lambda change: change.mean >= 0,
        "that is not shown to be less accurate (no interval is entirely below 0)": lambda change: change.high >= 0,
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
            winner = f"**{best.name}**, with {_share(ratio(best, base, 'tokens, overall'))} of the base's tokens"
        else:
            winner = "none"
        lines.append(f"- The shortest {words}, sampled and greedily: {winner}.")
    return lines


def _token_trend(arms: Sequence[Arm]) -> list[str]:
    """How tokens change from each alpha of a recipe to the next, a line for each recipe."""
    lines: list[str] = []
    for recipe in dict.fromkeys(arm.recipe for arm in arms):
        own = sorted(
            (arm for arm in arms if arm.recipe == recipe and arm.alpha is not None), key=lambda arm: arm.alpha or 0.0
        )
        steps = [(a, b, difference(b, a, "tokens, overall")) for a, b in pairwise(own)]
        if not steps:
            continue
        trend = "fall at every step" if all(change.mean < 0 for *_, change in steps) else "do not fall at every step"
        words = [f"{a.alpha:g} to {b.alpha:g}: {_change(change)}" for a, b, change in steps]
        lines.append(f"- {recipe}: tokens {trend}, {', '.join(words)}")
    return lines


def _at_equal_tokens(arms: Sequence[Arm]) -> list[str]:
    """A table of each arm with a dense reward against the line through the arms without one, the base included."""
    baselines = [arm for arm in arms if arm.reward is None or arm.reward in _BASELINES]
    lines: list[str] = []
    for arm in (arm for arm in arms if arm not in baselines):
        if gain := gain_over_baseline_frontier(arm, baselines):
            lines.append(f"| {arm.name} | {_points(gain)} | {_verdict(gain)} |")
        else:
            lines.append(f"| {arm.name} | is outside their token range | |")
    if not lines:
        return []
    *others, last = ["outcome", "alpha", *sorted({arm.reward for arm in baselines if arm.reward in _BASELINES[2:]})]
    line = f"{', '.join(['base', *others])} and {last}"
    return [
        f"**At equal tokens**: points of accuracy above the line through {line}, seed by seed",
        "",
        "| reward, alpha | points | |",
        "| --- | --- | --- |",
        *lines,
    ]


def _pairs(arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Each dense arm with those it is compared with.

    These are the arms at the same alpha without the dense reward or without its charge, and the baseline with
    the closest mean token count.
    """
    baselines = [arm for arm in arms if arm.reward in _BASELINES]
    dense = [arm for arm in arms if arm.reward is not None and arm.reward not in _BASELINES]
    pairs: list[tuple[Arm, Arm]] = []
    for arm in dense:
        uncharged = [other for other in dense if (arm.reward, other.reward) == ("l2t", "progress")]
        others = [other for other in (*baselines, *uncharged) if other.alpha == arm.alpha]
        closest = sorted(baselines, key=lambda other: abs(difference(arm, other, "tokens, overall").mean))[:1]
        pairs += [(arm, other) for other in others]
        pairs += [(arm, other) for other in closest if all(other is not one for one in others)]
    return pairs


def _side_by_side(arms: Sequence[Arm], hardest: str) -> list[str]:
    """A table of the differences between the arms of each pair."""
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
    header = ["reward, alpha", "minus", "tokens", "accuracy, points", "greedy accuracy, points"]
    header += [f"tokens, {hardest}", f"accuracy, points, {hardest}"]
    return [
        "Each dense reward minus those without it, and without its charge, at the same alpha; and minus the",
        "baseline with the closest mean token count. Bold: the interval does not contain 0, so there is a difference.",
        "",
        f"| {' | '.join(header)} |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
    ]


def _verdict(value: Estimate) -> str:
    return "no difference shown" if value.low <= 0 <= value.high else "a difference"


def _points(value: Estimate | None) -> str:
    if value is None:
        return "none"
    return _change(Estimate(mean=100 * value.mean, low=100 * value.low, high=100 * value.high))


def _change(value: Estimate) -> str:
    return f"{value.mean:+.1f} ({value.low:+.1f} to {value.high:+.1f})"


def _count(value: Estimate | None) -> str:
    return f"{value.mean:.1f} ({value.low:.1f} to {value.high:.1f})" if value else "none"


def _share(value: Estimate | None) -> str:
    if value is None:
        return "none"
    if value.low == value.high:  # all seeds agree, which says nothing about others
        return f"{100 * value.mean:.1f} %"
    return f"{100 * value.mean:.1f} % ({100 * value.low:.1f} to {100 * value.high:.1f})"
