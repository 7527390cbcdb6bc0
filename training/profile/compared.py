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
