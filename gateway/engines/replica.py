"""What is known about one engine now? What it serves, how busy it is, what fails there, and why it is down."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from gateway.engines import wire
from gateway.engines.breaker import Breaker
from gateway.engines.credentials import Credentials

log = logging.getLogger("laconic")

FIRST_REMINDER_SECONDS = 10.0
LONGEST_REMINDER_SECONDS = 600.0
CAP_MEMORY_SECONDS = 60.0
"""How long an engine that refused to cap the thinking is asked last for requests with a cap."""


@dataclass(frozen=True)
class Problem:
    """Why an engine cannot be used."""

    kind: str
    """In a few fixed words, for everyone."""
    details: str = ""
    """For the log: may have an engine's words in it, made harmless."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.details}" if self.details else self.kind


@dataclass(frozen=True)
class EngineState:
    """One engine, as `/health/ready` shows it."""

    url: str
    serves: list[str]
    problem: str | None
    """Why it serves nothing."""


class Replica:
    """One engine."""

    def __init__(self, url: str, connect_seconds: float, credentials: Credentials | None = None) -> None:
        self.url = url
        self.credentials = credentials or Credentials()
        self.client = wire.Client(url, connect_seconds, self.credentials)
        self.serving: frozenset[str] = frozenset()
        """The checkpoints it lists; empty while it is down."""
        self.problem: Problem | None = Problem("not asked yet")
        """Why it serves nothing."""
        self._down_since: float | None = None
        self._reminder_at = self._reminder_pause = 0.0
        self._breakers: dict[str, Breaker] = {}
        """By checkpoint, for those that failed since their last success."""
        self.in_flight = 0
        """Requests in flight, including those that wait for a first byte."""
        self.missed_probes = 0
        self.refused_caps = 0
        """How many requests it refused because it cannot cap the thinking."""
        self._refused_cap_at: float | None = None

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that requests may be sent for now: served, and not held back by a breaker."""
        if not self._breakers:
            return self.serving
        return frozenset(name for name in self.serving if self.allows(name))

    @property
    def state(self) -> EngineState:
        """What it serves, and what is wrong with it."""
        return EngineState(self.url, sorted(self.serving), self.problem.kind if self.problem else None)

    @property
    def may_refuse_caps(self) -> bool:
        """Whether it lately refused a request because it cannot cap the thinking."""
        return self._refused_cap_at is not None and time.monotonic() - self._refused_cap_at < CAP_MEMORY_SECONDS

    def allows(self, checkpoint: str) -> bool:
        """Whether the breaker lets a request for this checkpoint through now."""
        breaker = self._breakers.get(checkpoint)
        return breaker is None or breaker.allows(time.monotonic())

    def begin(self, checkpoint: str) -> None:
        """Note that a request is being sent."""
        if breaker := self._breakers.get(checkpoint):
            breaker.begin(time.monotonic())

    def record_response(self, checkpoint: str) -> None:
        """Note that a response has begun."""
        self._breakers.pop(checkpoint, None)

    def cancel(self, checkpoint: str) -> None:
        """Note that the caller left before the outcome was known."""
        if breaker := self._breakers.get(checkpoint):
            breaker.cancel()

    def record_failure(self, checkpoint: str, reason: object) -> None:
        """Note that no response began for this checkpoint."""
        if self._breakers.setdefault(checkpoint, Breaker()).record_failure(time.monotonic()):
            log.warning("engine %s gets no more requests for %s for a while: %s", self.url, checkpoint, reason)

    def record_refused_cap(self) -> None:
        """Note that it refused a request because it cannot cap the thinking."""
        if not self.may_refuse_caps:
            log.error(
                "engine %s refuses thinking_token_budget. With a budget, thinking and answer together are cut off there"
                " at the budget: start vLLM with --reasoning-parser or --reasoning-config",
                self.url,
            )
        self.refused_caps += 1
        self._refused_cap_at = time.monotonic()

    def mark_serving(self, serving: frozenset[str]) -> None:
        """Note which checkpoints it lists: at least one."""
        if serving - self.serving:
            log.info("engine %s serves %s", self.url, ", ".join(sorted(serving)))
        if lost := self.serving - serving:
            log.warning("engine %s no longer lists %s", self.url, ", ".join(sorted(lost)))
        self.serving, self.problem, self._down_since = serving, None, None

    def mark_down(self, problem: Problem) -> None:
        """Skip this replica until it answers a probe again. The log says so now, and again while it stays down."""
        now = time.monotonic()
        if self._down_since is None:
            was = "is down" if self.serving else "is not up"
            log.warning("engine %s %s: %s. It is probed once a second.", self.url, was, problem)
            self._down_since, self._reminder_pause = now, FIRST_REMINDER_SECONDS
            self._reminder_at = now + self._reminder_pause
        elif now >= self._reminder_at:
            log.warning("engine %s is not up for %.0f s: %s", self.url, now - self._down_since, problem)
            self._reminder_pause = min(2 * self._reminder_pause, LONGEST_REMINDER_SECONDS)
            self._reminder_at = now + self._reminder_pause
        self.serving, self.problem = frozenset(), problem
        self._refused_cap_at = None  # another engine may come up at this URL

    def mark_unreachable(self, problem: Problem, grace_seconds: float) -> None:
        """Mark it down, and give its running requests `grace_seconds`.

        An engine that is shutting down may still finish them; one that hangs never will.
        """
        self.mark_down(problem)
        self.client.set_deadline(grace_seconds)


class Upstream:
    """An engine's response that has begun. `first_bytes` are all of it if it is not a stream."""

    def __init__(self, replica: Replica, response: wire.Response, first_bytes: bytes) -> None:
        self._replica, self._response = replica, response
        self._open = True
        self.first_bytes = first_bytes
        self.relayed = False
        """Set once the caller has received everything: only the end of the last chunk is still to come."""

    @property
    def engine(self) -> str:
        """The URL of the engine that responds."""
        return self._replica.url

    async def read(self) -> bytes:
        """Return the next bytes, waiting for at least one; b"" at the end.

        Raises:
            TimeoutError, OSError: the engine sent nothing for too long, or died.
        """
        return await self._response.read_some()

    def close(self) -> None:
        """Release the connection. An engine that is still generating sees it close and stops."""
        if self._open:
            self._open = False
            self._replica.in_flight -= 1
            self._response.close(ending=self.relayed)
