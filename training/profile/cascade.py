"""Which escalations pay? Simulated from outcomes: one checkpoint answers, and another does if the first was unsure.

Short thinking that is wrong mostly has a high surprisal, and this tells wrong from correct better than any prompt does
(docs/decisions/0014-escalation.md). Every pair of checkpoints whose second thinks longer is tried at every share in
`SHARES`. Escalations on the frontier of accuracy over tokens, together with the checkpoints alone, are returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score

from models.prediction import Escalation
from training.tasks.outcome import Graded, Outcome

SHARES = (0.05, 0.1, 0.2, 0.3)
"""The shares of the first checkpoint's least confident samples that are escalated."""

Rows = Sequence[Graded]


def worthwhile(outcomes: Mapping[str, Rows]) -> dict[str, tuple[Escalation, list[Graded]]]:
    """The escalations on the frontier by name, each with its simulated outcomes.

    `outcomes` is by checkpoint, over the same prompts with equally many samples. A checkpoint without surprisals is
    never the first of an escalation.
    """
    candidates: dict[str, tuple[Escalation, list[Graded]]] = {}
    for first, rows in outcomes.items():
        if any(outcome.surprisal is None for row in rows for outcome in row.outcomes):
            continue
        surprisals = [outcome.surprisal for row in rows for outcome in row.outcomes if outcome.surprisal is not None]
        for second, others in outcomes.items():
            if tokens_and_accuracy(others)[0] <= tokens_and_accuracy(rows)[0]:
                continue
            for share in SHARES:
                threshold = round(float(np.quantile(surprisals, 1 - share)), 4)
                escalation = Escalation(first=first, second=second, surprisal=threshold)
                candidates[f"{first}>{second}@{share:.0%}"] = escalation, simulated(rows, others, threshold)
    points = {name: tokens_and_accuracy(rows) for name, rows in outcomes.items()}
    points |= {name: tokens_and_accuracy(rows) for name, (_, rows) in candidates.items()}
    best = frontier(points)
    return {name: candidate for name, candidate in candidates.items() if name in best}


def simulated(first: Rows, second: Rows, surprisal: float) -> list[Graded]:
    """The outcomes of an escalation: sample n of the first checkpoint, with sample n of the second if it is unsure."""
    return [
        replace(
            one,
            outcomes=tuple(
                _escalated(a, b) if is_unsure(a, surprisal) else a
                for a, b in zip(one.outcomes, other.outcomes, strict=True)
            ),
        )
        for one, other in zip(first, second, strict=True)
    ]


def is_unsure(outcome: Outcome, surprisal: float) -> bool:
    """Whether the outcome is escalated. Thinking that did not end is not: it has used up all tokens."""
    ended = outcome.reasoning_tokens < outcome.tokens
    return ended and outcome.surprisal is not None and outcome.surprisal > surprisal


def _escalated(first: Outcome, second: Outcome) -> Outcome:
    return replace(
        second,
        reasoning_tokens=first.reasoning_tokens + second.reasoning_tokens,
        tokens=first.reasoning_tokens + second.tokens,
        episodes=first.episodes + second.episodes,
        surprisal=None,
    )


def surprisal_auc(rows: Rows) -> float | None:
    """P(a wrong sample has a higher surprisal than a correct one); None if surprisals or one of the two are missing."""
    wrong = [not outcome.correct for row in rows for outcome in row.outcomes]
    surprisals = [outcome.surprisal for row in rows for outcome in row.outcomes if outcome.surprisal is not None]
    if len(surprisals) < len(wrong) or len(set(wrong)) < 2:
        return None
    return float(roc_auc_score(wrong, surprisals))


def frontier(points: Mapping[str, tuple[float, float]]) -> set[str]:
    """The names on the upper concave hull of (tokens, accuracy), up to the most accurate."""
    hull: list[str] = []

    def slope(one: str, other: str) -> float:
        (x0, y0), (x1, y1) = points[one], points[other]
        return (y1 - y0) / (x1 - x0) if x1 > x0 else np.inf

    for name in sorted(points, key=lambda n: (points[n][0], -points[n][1])):
        if hull and points[name][1] <= points[hull[-1]][1]:
            continue
        while len(hull) > 1 and slope(hull[-2], hull[-1]) <= slope(hull[-1], name):
            hull.pop()
        hull.append(name)
    return set(hull)


def tokens_and_accuracy(rows: Rows) -> tuple[float, float]:
    """Mean reasoning tokens, and accuracy."""
    return float(np.mean([row.reasoning_tokens for row in rows])), float(np.mean([row.accuracy for row in rows]))
