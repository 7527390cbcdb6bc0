"""How many prompts are enough to trust a family's figures and its profile? What is said where there are fewer."""

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
