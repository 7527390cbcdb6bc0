"""What would another quality tolerance have chosen, and saved? The routing rule, applied again to the ledger. No I/O.

Every routed request is decided again on the forecasts that were recorded with it. Both sides are predictions of the
profile: for the checkpoint that was chosen, and for the one that would be chosen now. Nothing is measured here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.ledger.entry import Entry
from models.rule import cheapest_good_enough


@dataclass
class ReplaySide:
    """What one setting chooses: expected tokens and expected success, summed over requests."""

    tokens: float = 0.0
    """Of the thinking."""
    answer_tokens: float = 0.0
    success: float = 0.0
    choices: Counter[str] = field(default_factory=Counter[str])

    def add(self, entry: Entry, checkpoint: str) -> None:
        """Count one request as sent to `checkpoint`."""
        forecast = entry.forecasts[checkpoint]
        self.tokens += forecast.tokens * entry.choices
        self.answer_tokens += forecast.answer_tokens * entry.choices
        self.success += forecast.success
        self.choices[checkpoint] += 1


@dataclass
class Replay:
    """The recorded choices and those of another tolerance, over the same requests."""

    tolerance: float
    """The `quality_tolerance` to try, in [0, 1]."""
    requests: int = 0
    reference_tokens: float = 0.0
    recorded: ReplaySide = field(default_factory=ReplaySide)
    replayed: ReplaySide = field(default_factory=ReplaySide)

    def add(self, entry: Entry) -> None:
        """Decide one request again if it was routed, and count both choices."""
        if entry.holdout_fraction is None or entry.reference_tokens is None:
            return
        self.requests += 1
        self.reference_tokens += entry.reference_tokens
        self.recorded.add(entry, entry.choice)
        self.replayed.add(entry, cheapest_good_enough(entry.forecasts, self.tolerance))
