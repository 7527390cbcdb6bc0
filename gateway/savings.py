"""What was saved? Totals and estimates from ledger entries, per checkpoint and in total. Pure.

    estimated saving = sum over estimated entries of (expected reference tokens - reasoning tokens spent)

An entry is estimated when the profile predicted the reference checkpoint for it, the engine finished it, and it is not
a holdout: a holdout *is* the reference checkpoint, and its difference would only be the profile's error. The estimate
stands on the profile being right. Positive is saved; where a checkpoint thought longer than expected it is negative.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the ledger does I/O, and this file is to run without it
    from gateway.ledger import Entry


@dataclass(frozen=True)
class Totals:
    """Sums over some entries. Tokens are reasoning tokens."""

    requests: int = 0
    failed: int = 0
    """Entries whose status is not 200; they count as requests and for what they spent, and into no estimate."""
    holdout: int = 0
    spent_tokens: int = 0
    answer_tokens: int = 0
    estimated: int = 0
    """Entries the next three figures are summed over."""
    estimated_spent_tokens: int = 0
    expected_reference_tokens: float = 0.0

    @property
    def saved_tokens(self) -> float:
        """The estimated saving."""
        return self.expected_reference_tokens - self.estimated_spent_tokens

    @property
    def saved_share(self) -> float | None:
        """The estimated saving as a share of what the reference was expected to spend; None where that is nothing."""
        return self.saved_tokens / self.expected_reference_tokens if self.expected_reference_tokens > 0 else None


@dataclass(frozen=True)
class Savings:
    """Totals by checkpoint, most used first, and over everything."""

    checkpoints: dict[str, Totals]
    total: Totals


def summarise(entries: Iterable[Entry]) -> Savings:
    """Savings over entries, in any order."""
    by_checkpoint: dict[str, Totals] = {}
    total = Totals()
    for entry in entries:
        by_checkpoint[entry.checkpoint] = _add(by_checkpoint.get(entry.checkpoint, Totals()), entry)
        total = _add(total, entry)
    ranked = sorted(by_checkpoint.items(), key=lambda item: (-item[1].requests, item[0]))
    return Savings(dict(ranked), total)


def _add(totals: Totals, entry: Entry) -> Totals:
    holdout, failed = entry.decision == "holdout", entry.status != 200
    expected = None if holdout or failed else entry.reference_tokens
    return Totals(
        requests=totals.requests + 1,
        failed=totals.failed + failed,
        holdout=totals.holdout + holdout,
        spent_tokens=totals.spent_tokens + entry.reasoning_tokens,
        answer_tokens=totals.answer_tokens + entry.answer_tokens,
        estimated=totals.estimated + (expected is not None),
        estimated_spent_tokens=totals.estimated_spent_tokens + (0 if expected is None else entry.reasoning_tokens),
        expected_reference_tokens=totals.expected_reference_tokens + (expected or 0.0),
    )
