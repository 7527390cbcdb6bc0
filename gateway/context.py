"""What does the gateway know about one request while it is being served?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from gateway.access.keys import Key
from gateway.access.limits import Reservation
from gateway.observe.tracing import Trace
from gateway.request.budget import Budget
from gateway.request.conversation import Conversation
from gateway.request.question import Question
from gateway.routing.conversation import LastTurn
from gateway.routing.rule import Decision


@dataclass(eq=False)
class RequestContext:
    """One chat request, from its first byte to its ledger entry. `chat.py` fills it in from top to bottom.

    The fields without a default are set before anything reads them: an early end leaves the later ones unset.
    """

    id: str
    trace: Trace = field(init=False)
    """An explanation (`POST /v1/route`) has none."""

    key: Key = field(init=False)
    question: Question = field(init=False)
    allowed: frozenset[str] = field(init=False)
    """The checkpoints that the key allows."""
    pinned: str | None = field(init=False)
    """The checkpoint that the caller named; None lets the gateway choose."""
    conversation: Conversation | None = None
    """None if conversations are not remembered."""
    last_turn: LastTurn | None = None
    budget: Budget = field(init=False)
    max_reasoning_tokens: int = field(init=False)
    """The most that all choices can think: what is reserved for a key with token limits, else 0."""
    reservation: Reservation | None = None
    accepted: bool = False
    """From now on the request ends with a ledger entry. A request refused earlier only counts in the metrics."""

    holdout_fraction: float = 0.0
    holdout: bool = False
    decision: Decision | None = None
    counts: tuple[int, ...] = ()
    """What the profile counted in the prompt; empty if it did not read it."""
    easiness: float = 0.0
    """What the profile's reader added to the forest's value."""
    escalated_to: str | None = None
    """The checkpoint that took over because the first one was not confident enough."""
    discarded_tokens: int = 0
    """What the first one had generated beyond its thinking by then. Nobody gets to read it, and it is counted."""
    first_reasoning_tokens: int = 0
    """What the first one had thought by then."""
    engine: str | None = None
    """The URL of the engine whose answer the caller gets."""
    cap: int | None = None
    """The most tokens that each choice may think, of both checkpoints if it was escalated; None for no cap."""
    engine_caps: bool = False
    """The engine was asked to cap the thinking."""
    is_trial: bool = False
    """It was asked although it is not trusted to."""
    is_cut: bool = False
    """The gateway ended the thinking itself."""

    arrived_at: float = field(default_factory=time.time)
    """Unix seconds."""
    _arrived: float = field(default_factory=time.perf_counter)
    sent_seconds: float | None = None
    """From arrival to the first attempt at an engine."""
    first_token_seconds: float | None = None
    """From arrival to a stream's first bytes."""
    settled: bool = False

    @property
    def answering(self) -> str:
        """The checkpoint whose answer the caller gets, as far as that is decided; "" before routing."""
        return self.escalated_to or (self.decision.checkpoint if self.decision else "")

    @property
    def engine_cap(self) -> int | None:
        """The cap that the engine keeps: its own, or the length of each of several choices."""
        return self.cap if self.engine_caps or self.question.choices > 1 else None

    @property
    def limit(self) -> int | None:
        """Maximum reasoning tokens."""
        return self.budget.limit(self.question.max_tokens)

    def elapsed(self) -> float:
        """Seconds since arrival."""
        return time.perf_counter() - self._arrived

    def sending(self) -> None:
        """The request goes to an engine now. Only the first attempt counts as the gateway's own overhead."""
        if self.sent_seconds is None:
            self.sent_seconds = self.elapsed()
