"""Which reader of prompts was chosen, and what would the others have done? A section of a family's card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        f" {scores['log_loss']:.4f} | {scores['auc']:.3f} | {_time(scores)} |"
        for name, scores in reader["compared"].items()
    ]
    return "\n".join(
        [
            f"How easy a prompt looks is read by **{reader['name']}**, the simplest reader with a log loss within one",
            "standard error of the lowest. Figures are cross-validated, of P(right) averaged over the checkpoints.",
            "Microseconds are those of one prompt, where the profile was fitted, beyond what every decision needs.",
            "",
            "| reader | what it sees | log loss | AUC | microseconds |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def _time(scores: Mapping[str, float]) -> str:
    return f"{scores['microseconds']:,.0f}" if "microseconds" in scores else ""
