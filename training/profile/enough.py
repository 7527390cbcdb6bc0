"""What makes a family's figures and its profile worth little? Few prompts, or a reference that is never right."""

from __future__ import annotations

from math import sqrt

FEW = 100
"""With fewer, the 95 % interval of an accuracy of a half reaches more than 10 points either way."""


def warning(prompts: int, what: str = "Measured on") -> str | None:
    """What to say about figures from so few prompts; None where they are enough."""
    if prompts >= FEW:
        return None
    points = 100 * 1.96 * 0.5 / sqrt(max(prompts, 1))
    return (
        f"{what} {prompts} prompts: that is few. An accuracy of a half is uncertain by {points:.0f} points either way,"
        " and a profile of so few seldom routes better than one checkpoint for everything. Take 300 or more."
    )


def never_right(reference: str, accuracy: float) -> str | None:
    """What to say about a reference that is right on no prompt; None if it is on some."""
    if accuracy > 0:
        return None
    return (
        f"{reference} is right on no prompt, so nothing shows what less thinking costs. Check the prompts' answers, and"
        " whether replies are long enough to end."
    )
