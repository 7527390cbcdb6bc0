"""How are prompts read, and how far can that be trusted? Sections of a family's card.

Which reader was chosen, what the others would have done, whether predictions are as sure as they should be, and how far
off the expected lengths of answers are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.profile import Profile

TIMED = 50
"""How many prompts a prediction is timed with."""

_READS = {
    "constant": "nothing: every prompt is as hard as any other",
    "length": "the number of characters",
    "counts": "counts of words, numbers and operators",
    "text": "sentences, kinds of words, numbers and symbols",
    "ngrams": "words and pairs of words, hashed",
    "forest": "the counts, by boosted trees",
    "stack": "text, n-grams and forest together",
    "neighbours": "how the prompts that are most like it did",
    "encoder": "its meaning, by a sentence encoder",
    "full": "all of these together",
}


def section(reader: Mapping[str, Any] | None) -> str:
    """Every reader with its cross-validated figures, as Markdown; empty for a profile that has none.

    Args:
        reader: the profile's `reader`, as JSON.
    """
    if reader is None:
        return ""
    rows = [
        f"| {f'**{name}**' if name == reader['name'] else name} | {_READS.get(name, '')} |"
        f" {scores['log_loss']:.4f} | {scores['auc']:.3f} |"
        for name, scores in reader["compared"].items()
    ]
    return "\n".join(
        [
            f"How easy a prompt looks is read by **{reader['name']}**, the simplest reader with a log loss within one",
            "standard error of the lowest. Figures are cross-validated, of P(right) averaged over the checkpoints:",
            "",
            "| reader | what it sees | log loss | AUC |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )


def cost(profile: Profile, prompts: Sequence[str]) -> str:
    """What a prediction takes here, as a sentence.

    Args:
        profile: the family's.
        prompts: some that it was fitted on.
    """
    times: list[float] = []
    for prompt in prompts[:TIMED]:
        start = time.perf_counter()
        profile.predict(prompt)
        times.append(time.perf_counter() - start)
    median = 1e6 * float(np.median(times))
    return (
        f"A prediction takes {median:,.0f} microseconds where the profile was fitted (median of {len(times)} prompts)."
    )


def calibration(reliability: Mapping[str, Sequence[Sequence[float]]] | None) -> str:
    """Are the predictions as sure as they should be? Predicted and measured shares in bins, as Markdown.

    Args:
        reliability: the profile's, as JSON; empty for an older profile.
    """
    if not reliability:
        return ""
    width = max(map(len, reliability.values()))
    rows = [
        f"| `{name}` | "
        + " | ".join(f"{predicted:.0%} → {right:.0%}".replace("%", " %") for predicted, right, _ in bins)
        + " |" * (width - len(bins) + 1)
        for name, bins in reliability.items()
    ]
    return "\n".join(
        [
            "Are the predictions as sure as they should be? In each fifth of the prompts by predicted success, the",
            "mean prediction → the share that was right:",
            "",
            f"| checkpoint | hardest fifth |{' |' * max(width - 2, 0)} easiest fifth |",
            "| --- |" + " --- |" * width,
            *rows,
        ]
    )


def answers(report: Mapping[str, Mapping[str, float]]) -> str:
    """How far off are expected answer tokens? By checkpoint, as Markdown; empty if none were predicted.

    Args:
        report: the profile's, as JSON.
    """
    rows = [
        f"| `{name}` | {r['answers_mean']:,.1f} | {r['answers_error']:,.1f} | {r['answers_error_constant']:,.1f} |"
        for name, r in report.items()
        if "answers_error" in r
    ]
    if not rows:
        return ""
    return "\n".join(
        [
            "How long is the answer behind the thinking? Its mean tokens, and the root mean square error of the tokens",
            "that are expected for a prompt that was not fitted on. A *constant* expects the mean for every prompt:",
            "",
            "| checkpoint | answer tokens | error | error of a constant |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
