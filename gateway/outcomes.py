"""What became of a decision for another router? `POST /v1/outcomes`, and a sweep for outcomes that never come.

An outcome becomes the ledger's entry of the request, once. What the router reports is believed as far as the request
can have it (`gateway.ledger.outcome`); a repeat must say the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import errors
from gateway.access.keys import Key
from gateway.access.limits import Reservation
from gateway.access.money import billed
from gateway.errors import ApiError, BadRequestError
from gateway.feedback import ScoreValue, SourceName, find_entry, record_score
from gateway.ledger import decisions, outcome
from gateway.ledger.entry import Entry
from gateway.ledger.outcome import OTHER, Decided, Outcome
from gateway.observe.metrics import DecisionEvent
from gateway.request.admission import Tenant
from gateway.services import Services
from gateway.settlement import remember
from gateway.supervision import BackgroundTask

log = logging.getLogger("laconic")

SWEEP_SECONDS = 10.0


class Report(Outcome):
    """The body of `POST /v1/outcomes`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
    decision_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")]
    """The `id` of the decision."""
    score: ScoreValue | None = None
    source: SourceName | None = None

    @property
    def outcome(self) -> Outcome:
        """What the ledger records, without the score."""
        return Outcome.model_validate(self.model_dump(include=set(Outcome.model_fields)))


class Outcomes:
    """`POST /v1/outcomes`, and the task that gives up decisions whose outcome never comes."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sweeping: BackgroundTask | None = None

    def start(self) -> None:
        """Begin to look for expired decisions. Redis need not be up."""
        self._sweeping = BackgroundTask("outcomes", self._keep_sweeping)

    async def aclose(self) -> None:
        """Stop looking. Another gateway goes on, or the next start."""
        if self._sweeping is not None:
            await self._sweeping.stop()

    async def report(self, request: Request) -> Response:
        """Record the outcome of a decision, and a score of the answer if there is one."""
        services = self._services
        key = services.keyring.authenticate(request.headers)
        given = await self._read(request, Tenant(key.name, services.keyring.is_shared))
        try:
            entry, repeated = await self._record(key, given.decision_id, given.outcome)
            if given.score is not None and given.source is not None:
                await record_score(services, entry, given.source, given.score)
        except (RedisError, OSError):
            raise errors.unavailable(
                "Redis, which holds the decisions, does not answer. Try again in a moment.", "store_unavailable"
            ) from None
        return JSONResponse(
            {
                "decision_id": entry.id,
                "checkpoint": entry.checkpoint,
                "decision": entry.decision,
                "holdout": entry.holdout,
                "over_cap": entry.over_cap,
                "repeated": repeated,
            }
        )

    async def _read(self, request: Request, tenant: Tenant) -> Report:
        """The report in the body, which is read no further than `max_body_bytes`."""
        services = self._services
        body = await services.admission.read_body(request, tenant, services.settings.send_timeout_seconds)
        try:
            given = Report.model_validate_json(body)
        except ValidationError as error:
            raise errors.invalid(error.errors(include_url=False)) from None
        if (given.score is None) != (given.source is None):
            missing, other = ("score", "source") if given.score is None else ("source", "score")
            raise BadRequestError(f"{missing}: missing, and {other} needs it", missing)
        return given

    async def _record(self, key: Key, decision_id: str, given: Outcome) -> tuple[Entry, bool]:
        """The entry with this outcome, and whether it had been recorded before.

        Raises:
            ApiError: this key has no such decision, it has expired, it has another outcome, or a figure is wrong.
            RedisError, OSError: Redis is down.
        """
        redis = self._services.ledger.redis
        decided = await decisions.find(redis, decision_id, key.name)
        if decided is not None:
            outcome.check(decided, given)
            claim = await decisions.claim(redis, decision_id, given)
            if claim.state == "new":
                entry = self._entry(decided, given)
                self._write(decided, entry, key)
                with contextlib.suppress(RedisError, OSError):  # the entry is safe, and the sweep closes what is left
                    await self._close(entry, decided, "reported")
                return entry, False
            if claim.outcome is not None:
                return self._repeated(self._entry(decided, claim.outcome), given), True
            if claim.state == "expired":
                raise _expired(decision_id)
        entry = await find_entry(self._services, decision_id)
        if entry is None or entry.key != key.name or not entry.via:
            raise _unknown(decision_id)
        if not entry.is_reported:
            raise _expired(decision_id)
        return self._repeated(entry, given), True

    def _entry(self, decided: Decided, given: Outcome) -> Entry:
        family = self._services.family
        checkpoint = _checkpoint(self._services, given.model, decided.entry.checkpoint)
        alpha = None if checkpoint == OTHER else family.checkpoint(checkpoint).alpha
        marked = family.reasoning is not None
        return outcome.reported(decided, given, time.time(), checkpoint=checkpoint, alpha=alpha, marked=marked)

    def _write(self, decided: Decided, entry: Entry, key: Key) -> None:
        """Record an outcome wherever a chat request is recorded, too."""
        services = self._services
        services.ledger.put(entry)
        if decided.reserved is not None:
            spent = min(entry.reasoning_tokens, decided.reserved)
            reservation = Reservation.of(key, entry.id, decided.reserved, decided.money, decided.team)
            prices = services.prices.current
            bill = 0 if prices is None else min(billed(entry.parts, prices), decided.money)
            services.limiter.settle(reservation, spent, bill)
        strained = bool(decided.cap) and entry.reasoning_tokens >= entry.choices * (decided.cap or 0)
        remember(services, decided.conversation, entry, strained=strained)

    async def _close(self, entry: Entry, decided: Decided, event: DecisionEvent) -> None:
        """Forget the decision. Who does that counts it, so that the metrics count it once.

        Raises:
            RedisError, OSError: Redis is down.
        """
        if await decisions.close(self._services.ledger.redis, entry.id):
            self._services.metrics.record(entry, decided.seconds)
            self._services.metrics.record_decision(event)

    def _repeated(self, entry: Entry, given: Outcome) -> Entry:
        """The recorded entry, if it has this outcome."""
        checkpoint = _checkpoint(self._services, given.model, entry.checkpoint)
        marked = self._services.family.reasoning is not None
        if (field := outcome.difference(entry, given, checkpoint=checkpoint, marked=marked)) is not None:
            message = f"{field}: the first outcome of this decision counts, and there it is another"
            raise ApiError(409, message, param=field, code="outcome_differs")
        return entry

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                while await self.sweep():
                    pass
            except (RedisError, OSError) as error:
                log.debug("expired decisions cannot be read from Redis: %s", type(error).__name__)

    async def sweep(self) -> int:
        """Write the entries of some decisions that expired, or whose writer was killed, and return how many.

        Raises:
            RedisError, OSError: Redis is down.
        """
        services = self._services
        due = await decisions.take_due(services.ledger.redis)
        for one in due:
            entry = one.decided.entry if one.outcome is None else self._entry(one.decided, one.outcome)
            services.ledger.put(entry)
            await self._close(entry, one.decided, "unreported" if one.outcome is None else "reported")
        return len(due)


def _checkpoint(services: Services, model: str, decided: str) -> str:
    """The checkpoint that a router calls by this name; `OTHER` if there is none. Levels may share a model's name."""
    family, engines = services.family, services.engines
    fitting = [
        one.name
        for one in family.checkpoints
        if model in (one.name, family.served_name(one.name), engines.model_of(one.name))
    ]
    if decided in fitting:
        return decided
    return fitting[0] if len(fitting) == 1 else OTHER


def _unknown(decision_id: str) -> ApiError:
    """404: no decision on which this key may report."""
    return ApiError(
        404,
        f"decision_id: this key has no decision {decision_id!r}. It is the id that POST /v1/decisions returned.",
        param="decision_id",
        code="decision_not_found",
    )


def _expired(decision_id: str) -> ApiError:
    """410: the outcome comes too late."""
    return ApiError(
        410,
        f"decision_id: {decision_id} expired {decisions.OPEN_SECONDS / 60:.0f} minutes after it was made, and is"
        " recorded as unreported.",
        param="decision_id",
        code="decision_expired",
    )
