"""What is known about one engine now? What it serves, how busy it is, what fails there, and why it is down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.engines import wire
from gateway.engines.breaker import Breaker
from gateway.engines.credentials import Credentials
from gateway.engines.problem import WRONG_KEY, Problem
from gateway.engines.trust import Trust

log = logging.getLogger("laconic")

FIRST_REMINDER_SECONDS = 10.0
LONGEST_REMINDER_SECONDS = 600.0
MAX_CHANGES = 10
"""How many changes of the reason why an engine is down are logged before the next reminder."""
MEMORY_SECONDS = 60.0
"""How long an engine that cannot continue a message is not asked to."""


@dataclass(frozen=True)
class EngineState:
    """One engine, as `/health/ready` shows it."""

    url: str
    serves: list[str]
    problem: str | None
    """Why it serves nothing, in a few fixed words."""
    action: str | None = None
    """What to do about it, in fixed sentences."""
    details: str | None = None
    """The same in full, for admins."""
    assumed: bool = False
    """Whether it has no list of models, and is taken to have those that it is configured for."""
    lacks: str | None = None
    """What it lists too little, in a sentence for admins."""
    caps_hold: bool = True
    """It is trusted to keep caps on thinking; otherwise the gateway ends the thinking itself."""


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
        self.listed: frozenset[str] | None = None
        """The names of the models that it listed last; None if it has listed none yet, or has no list."""
        self.contexts: dict[str, int] = {}
        """By model, the context in tokens that it listed last, where it told it."""
        self.lacks: str | None = None
        """What it lists too little, in a sentence for admins."""
        self._refused: dict[str, Problem] = {}
        """By checkpoint, why its requests are refused, since their last success."""
        self._key_version = self.credentials.version
        self._down_since: float | None = None
        self._logged: Problem | None = None
        """Why it is down, as the log said last."""
        self._changes = 0
        """How often the log has said so since the last reminder, because the reason had changed."""
        self._reminder_at = self._reminder_pause = 0.0
        self._breakers: dict[str, Breaker] = {}
        """By checkpoint, for those that failed since their last success."""
        self.in_flight = 0
        """Requests in flight, including those that wait for a first byte."""
        self.missed_probes = self.missed_lists = 0
        self.refused_caps = self.not_continued = 0
        """How many requests for a cap it refused, and how many messages it did not continue."""
        self.caps = Trust()
        self._not_continued_at: float | None = None

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that requests may be sent for now: served, and not held back by a breaker."""
        if not self._breakers:
            return self.serving
        return frozenset(name for name in self.serving if self.allows(name))

    @property
    def state(self) -> EngineState:
        """What it serves, and what is wrong with it."""
        problem = self.problem
        if problem is None and self._refused and self._refused.keys() >= self.serving:
            problem = next(iter(self._refused.values()))
        caps = not self.caps.lost
        assumed = self.problem is None and self.listed is None
        lacks = self.lacks if self.serving else None
        if problem is None:
            return EngineState(self.url, sorted(self.serving), None, assumed=assumed, lacks=lacks, caps_hold=caps)
        action = problem.action or None
        return EngineState(self.url, sorted(self.serving), problem.kind, action, str(problem), assumed, lacks, caps)

    @property
    def continues(self) -> bool:
        """Whether it may be asked to continue a message: it has not failed to lately."""
        return self._not_continued_at is None or time.monotonic() - self._not_continued_at >= MEMORY_SECONDS

    def may_cap(self, *, trial: bool) -> bool:
        """Whether it may be asked to cap the thinking: it is trusted to, or may be tried again, and this is a trial."""
        return not self.caps.lost or (trial and self.caps.allows(time.monotonic()))

    def begin_capped(self) -> bool:
        """Note that a request with a cap is being sent. Returns whether it is a trial."""
        return self.caps.begin(time.monotonic())

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
        if self._refused and (was := self._refused.get(checkpoint)) is not None:
            self._forget_refusals(was.kind if was.kind == WRONG_KEY else None, checkpoint)
            log.info("engine %s answers requests for %s again", self.url, checkpoint)

    def record_refusal(self, checkpoint: str, problem: Problem) -> None:
        """Note that it does not have the checkpoint's model, or refuses the key, although its list says otherwise.

        Requests are held back, but for a trial now and then.
        """
        for name in self.serving if problem.kind == WRONG_KEY else (checkpoint,):
            if name not in self._refused:
                log.warning("engine %s gets no more requests for %s but trials: %s", self.url, name, problem)
            self._refused[name] = problem
            self._breakers.setdefault(name, Breaker()).open(time.monotonic())

    def _forget_refusals(self, kind: str | None = None, checkpoint: str | None = None) -> None:
        """Send requests again: all of one kind of refusal, those of one checkpoint, or all."""
        for name, problem in [*self._refused.items()]:
            if (kind is None and checkpoint in (None, name)) or problem.kind == kind:
                self._refused.pop(name)
                self._breakers.pop(name, None)

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
        if not self.caps.lost:
            log.error(
                "engine %s refuses to cap the thinking. The gateway ends the thinking there itself, with a second"
                " request: start vLLM with --reasoning-parser or --reasoning-config to save it",
                self.url,
            )
        self.refused_caps += 1
        self.caps.record_breach(time.monotonic())

    def record_cap(self, *, kept: bool | None) -> None:
        """Note whether it kept a cap; None if that cannot be told."""
        if kept is None:
            self.caps.cancel()
        elif kept:
            log.info("engine %s keeps its caps again", self.url)
            self.caps.record_kept()
        else:
            if not self.caps.lost:
                log.error("engine %s did not keep a cap. The gateway ends the thinking there itself for now", self.url)
            self.caps.record_breach(time.monotonic())

    def record_not_continued(self) -> None:
        """Note that it cannot continue a message, so that there is no answer behind a thinking that was ended."""
        if self.continues:
            log.error(
                "engine %s does not continue a message whose thinking has ended: its chat template or API cannot."
                " Answers end with the budget there (finish_reason length)",
                self.url,
            )
        self.not_continued += 1
        self._not_continued_at = time.monotonic()

    def mark_serving(self, serving: frozenset[str], listed: frozenset[str] | None = None) -> None:
        """Note which checkpoints it serves, at least one, and which models it lists; None if it has no list."""
        if listed is None and (self.listed is not None or serving != self.serving):
            log.warning("engine %s has no list of models; it is taken to serve %s", self.url, _joined(serving))
        elif serving - self.serving:
            log.info("engine %s serves %s", self.url, _joined(serving))
        if lost := self.serving - serving:
            log.warning("engine %s no longer lists %s", self.url, _joined(lost))
        if self._key_version != self.credentials.version or listed != self.listed or self.problem is not None:
            self._forget_refusals()
        if self.problem is not None:
            self.client.end_outage()
        self._key_version = self.credentials.version
        self.serving, self.listed, self.problem, self._down_since = serving, listed, None, None

    def mark_down(self, problem: Problem) -> None:
        """Skip this replica until it answers a probe again. The log says so now, and again while it stays down.

        It also says at once if there is another reason than before.
        """
        now = time.monotonic()
        if self._down_since is None:
            was = "is down" if self.serving else "is not up"
            log.warning("engine %s %s: %s It is probed once a second.", self.url, was, problem)
            self._down_since, self._reminder_pause = now, FIRST_REMINDER_SECONDS
            self._reminder_at = now + self._reminder_pause
            self._logged, self._changes = problem, 0
        elif now >= self._reminder_at:
            log.warning("engine %s is not up for %.0f s: %s", self.url, now - self._down_since, problem)
            self._reminder_pause = min(2 * self._reminder_pause, LONGEST_REMINDER_SECONDS)
            self._reminder_at = now + self._reminder_pause
            self._logged, self._changes = problem, 0
        elif problem != self._logged and self._changes < MAX_CHANGES:
            self._logged, self._changes = problem, self._changes + 1
            log.warning("engine %s is still not up: %s", self.url, problem)
        self.serving, self.problem = frozenset(), problem
        self.caps, self._not_continued_at = Trust(), None  # another engine may come up at this URL

    def mark_unreachable(self, problem: Problem, grace_seconds: float) -> None:
        """Mark it down, and give its running requests `grace_seconds`, unless it serves again before.

        An engine that is shutting down may still finish them; one that hangs never will.
        """
        self.mark_down(problem)
        self.client.begin_outage(grace_seconds)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


class Upstream:
    """An engine's response that has begun. `first_bytes` are all of it if it is not a stream."""

    def __init__(self, replica: Replica, response: wire.Response, first_bytes: bytes) -> None:
        self._replica, self._response = replica, response
        self._open = True
        self.first_bytes = first_bytes
        self.is_trial = False
        """It was asked to cap the thinking although it is not trusted to."""
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
