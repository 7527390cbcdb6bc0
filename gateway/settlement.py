"""What goes into the books when a request is over? One ledger entry and its metrics, exactly once, whatever the end."""

from __future__ import annotations

import math
import time

from gateway.access.keys import Key
from gateway.access.limits import Limiter, Reservation
from gateway.answer.usage import Spent
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Trace
from gateway.request.budget import Budget
from gateway.routing.rule import Decision
from models.family import Family

CALLER_LEFT = 499


class Account:
    """One request from its arrival to its end. What is not known when it ends stays as it is here."""

    def __init__(
        self, request_id: str, family: Family, *, ledger: Ledger, limiter: Limiter, metrics: Metrics, trace: Trace
    ) -> None:
        self.id, self.trace = request_id, trace
        self._family, self._ledger, self._limiter, self._metrics = family, ledger, limiter, metrics
        self._time, self._arrived = time.time(), time.perf_counter()
        self._sent: float | None = None
        self._first_token: float | None = None
        self._settled = False
        self.key: Key | None = None
        self.reservation: Reservation | None = None
        self.budget: Budget | None = None
        self.choices = 1
        self.whole = False
        """The answer comes as one piece, not as a stream."""
        self.decision: Decision | None = None
        self.answers: str | None = None
        """The checkpoint that does, where it is not the one that began."""
        self.holdout_fraction, self.holdout = 0.0, False

    def sent(self) -> None:
        """The request goes to an engine now, for the first time or again."""
        self._sent = self._sent or self._elapsed()

    def first_token(self) -> None:
        """A stream's first bytes are here."""
        self._first_token = self._elapsed()

    def abandon(self, status: int, error: str) -> None:
        """Settle a request that nobody waits for any more.

        A whole answer tells what it cost only when it is there: of one that is given up in the middle, what was
        predicted of its checkpoint is taken instead.
        """
        assumed = self.whole and self._sent is not None and self.decision is not None
        self.settle(status, self._predicted() if assumed else None, error=error, assumed=assumed)

    def settle(
        self,
        status: int,
        spent: Spent | None = None,
        finish_reason: str = "",
        error: str = "",
        *,
        assumed: bool = False,
    ) -> None:
        """Write it down. A request that was refused before there was a budget for it has no entry, only a metric."""
        if self._settled:
            return
        self._settled = True
        if self.reservation is not None:
            self._limiter.settle(self.reservation, spent.reasoning if spent else 0)
        if self.budget is None:
            self._metrics.record_refusal(status)
            self.trace.end(status, self.id, None)
            return
        spent = spent or Spent()
        decision = self.decision
        checkpoint = (self.answers or decision.checkpoint) if decision else "none"
        entry = Entry(
            id=self.id,
            time=self._time,
            key=self.key.name if self.key else "",
            checkpoint=checkpoint,
            alpha=self._family.checkpoint(checkpoint).alpha if decision else None,
            decision=decision.kind if decision else "none",
            choice=decision.choice if decision else "none",
            holdout_fraction=self.holdout_fraction if decision and decision.routed else None,
            holdout=bool(decision and decision.routed and self.holdout),
            difficulty=decision.difficulty if decision else None,
            budget=self.budget.tokens,
            choices=self.choices,
            prompt_tokens=spent.prompt,
            reasoning_tokens=spent.reasoning,
            answer_tokens=spent.answer,
            predicted_tokens=self._for_all_choices(decision.predicted_tokens if decision else None),
            reference_tokens=self._for_all_choices(decision.reference_tokens if decision else None),
            forecasts=dict(decision.forecasts) if decision else {},
            finish_reason=finish_reason,
            status=status,
            error=error,
            first_token_seconds=self._first_token,
            total_seconds=self._elapsed(),
            assumed=assumed,
        )
        self._ledger.put(entry)
        self._metrics.record(entry, self._sent or entry.total_seconds)
        self.trace.end(status, self.id, entry)

    def _predicted(self) -> Spent:
        assert self.decision is not None
        tokens = self.decision.predicted_tokens
        if tokens is None:  # nothing is known of the prompt, so what the family was measured to spend has to do
            mean = self._family.checkpoint(self.decision.checkpoint).frontier.overall.reasoning_tokens.mean
            limit = self.budget.tokens if self.budget else None
            tokens = mean if limit is None else min(mean, limit)
        reasoning = math.ceil(tokens * self.choices)
        if self.reservation is not None and self.reservation.key.max_tokens_per_request is not None:
            reasoning = min(reasoning, self.reservation.tokens)
        return Spent(0, reasoning)

    def _for_all_choices(self, tokens: float | None) -> float | None:
        return None if tokens is None else tokens * self.choices

    def _elapsed(self) -> float:
        return time.perf_counter() - self._arrived
