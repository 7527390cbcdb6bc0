"""What would another setting have chosen, and saved? The rule again, on what the ledger recorded. Pure.

Every routed request is decided anew on the forecasts it was decided on then. Both sides are the profile's word: what
was forecast of the checkpoint chosen then, and of the one chosen now. Nothing is measured by this.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gateway.ledger.entry import Entry
from gateway.routing.rule import cheapest_good_enough


@dataclass
class Side:
    """What one setting chooses. Tokens are reasoning tokens, expected; success is a sum over requests."""

    tokens: float = 0.0
    success: float = 0.0
    choices: Counter[str] = field(default_factory=Counter[str])

    def add(self, entry: Entry, checkpoint: str) -> None:
        """Count one request as served by `checkpoint`."""
        forecast = entry.forecasts[checkpoint]
        self.tokens += forecast.tokens * entry.choices
        self.success += forecast.success
        self.choices[checkpoint] += 1


@dataclass
class Replay:
    """Both settings over the same requests."""

    tolerance: float
    """The other `quality_tolerance`, in [0, 1]."""
    requests: int = 0
    reference_tokens: float = 0.0
    recorded: Side = field(default_factory=Side)
    replayed: Side = field(default_factory=Side)

    def add(self, entry: Entry) -> None:
        """Decide one request again, if it was routed."""
        if entry.holdout_fraction is None or entry.reference_tokens is None:
            return
        self.requests += 1
        self.reference_tokens += entry.reference_tokens
        self.recorded.add(entry, entry.choice)
        self.replayed.add(entry, cheapest_good_enough(entry.forecasts, self.tolerance))
