"""Which second thoughts are worth having? Simulated from outcomes: a checkpoint's, then another's where it was unsure.

Brief thinking that is wrong is mostly unsure of itself, and its own probability tells so better than any prompt does
(docs/decisions/0014-escalation.md). Every pair of checkpoints of which the second thinks longer is tried at every
share of `SHARES`; what lies on the frontier of accuracy over tokens, beside the checkpoints alone, is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from sklearn.metrics import roc_auc_score

from models.profile import Escalation
from training.tasks.outcome import Graded, Outcome

SHARES = (0.05, 0.1, 0.2, 0.3)
"""Of first thoughts, the least sure, that are thought anew."""

Rows = Sequence[Graded]


def worthwhile(outcomes: Mapping[str, Rows]) -> dict[str, tuple[Escalation, list[Graded]]]:
    """By name: the second thoughts on the frontier, and what they come to on each prompt.

    `outcomes` is by checkpoint over the same prompts, as often each; who has no surprisal is nobody's first.
    """
    tried: dict[str, tuple[Escalation, list[Graded]]] = {}
    for first, rows in outcomes.items():
        if any(outcome.surprisal is None for row in rows for outcome in row.outcomes):
            continue
        surprisals = [outcome.surprisal for row in rows for outcome in row.outcomes if outcome.surprisal is not None]
        for second, others in outcomes.items():
            if place_of(others)[0] <= place_of(rows)[0]:
                continue
            for share in SHARES:
                escalation = Escalation(
                    first=first, second=second, surprisal=round(float(np.quantile(surprisals, 1 - share)), 4)
                )
                tried[f"{first}>{second}@{share:.0%}"] = escalation, simulated(rows, others, escalation.surprisal)
    places = {name: place_of(rows) for name, rows in outcomes.items()}
    places |= {name: place_of(rows) for name, (_, rows) in tried.items()}
    best = frontier(places)
    return {name: found for name, found in tried.items() if name in best}


def simulated(first: Rows, second: Rows, surprisal: float) -> list[Graded]:
    """What second thoughts come to: each sample with the other checkpoint's of the same number."""
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
    """Whether second thoughts follow. Thinking that did not end took all the tokens that there were."""
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
    """Probability that a wrong sample is more surprised by itself than a right one; None where that is not known."""
    wrong = [not outcome.correct for row in rows for outcome in row.outcomes]
    surprisals = [outcome.surprisal for row in rows for outcome in row.outcomes if outcome.surprisal is not None]
    if len(surprisals) < len(wrong) or len(set(wrong)) < 2:
        return None
    return float(roc_auc_score(wrong, surprisals))


def frontier(places: Mapping[str, tuple[float, float]]) -> set[str]:
    """Who lies on the upper concave hull of (tokens, accuracy), up to the most accurate."""
    kept: list[str] = []

    def slope(one: str, other: str) -> float:
        (x0, y0), (x1, y1) = places[one], places[other]
        return (y1 - y0) / (x1 - x0) if x1 > x0 else np.inf

    for name in sorted(places, key=lambda n: (places[n][0], -places[n][1])):
        if kept and places[name][1] <= places[kept[-1]][1]:
            continue
        while len(kept) > 1 and slope(kept[-2], kept[-1]) <= slope(kept[-1], name):
            kept.pop()
        kept.append(name)
    return set(kept)


def place_of(rows: Rows) -> tuple[float, float]:
    """Mean reasoning tokens, and accuracy."""
    return float(np.mean([row.reasoning_tokens for row in rows])), float(np.mean([row.accuracy for row in rows]))
