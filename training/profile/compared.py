"""How are prompts read, and how far can that be trusted? Sections of a family's card.

Which reader was chosen, what the others would have done, and whether predictions are as sure as they should be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
