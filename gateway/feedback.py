"""How does a caller say how good an answer was? `POST /v1/feedback`, which FastAPI serves.

The scores say whether routing costs quality (`gateway.ledger.quality`). The request's id is the header `x-request-id`
of its response.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError

from gateway import errors
from gateway.access.keys import Key
from gateway.errors import ApiError
from gateway.ledger import feedback
from gateway.ledger.entry import Entry
from gateway.ledger.feedback import FullError
from gateway.request.admission import Tenant
from gateway.services import Services

router = APIRouter()

LOOKS, LOOK_SECONDS = 5, 0.1
"""How often a request is looked for, and how long to wait in between: entries are written behind the request."""


ScoreValue = Annotated[float, Field(ge=0, le=1)]
SourceName = Annotated[str, Field(max_length=64, pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Feedback(BaseModel):
    """The body of `POST /v1/feedback`."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    request_id: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_-]+$")]
    """The header `x-request-id` of the response."""
    score: ScoreValue
    """1 is best."""
    source: SourceName
    """What the score comes from, such as `thumbs`, `verifier` or `judge`; each source is compared by itself."""


def _caller(request: Request) -> tuple[Services, Key]:
    """The gateway's services, and whose key it is."""
    services: Services = request.app.state.services
    return services, services.keyring.authenticate(request.headers)


async def _feedback(request: Request, caller: Annotated[tuple[Services, Key], Depends(_caller)]) -> Feedback:
    """The feedback in the body, which is read no further than `max_body_bytes`."""
    services, key = caller
    tenant = Tenant(key.name, services.keyring.is_shared)
    body = await services.admission.read_body(request, tenant, services.settings.send_timeout_seconds)
    try:
        return Feedback.model_validate_json(body)
    except ValidationError as error:
        raise errors.invalid(error.errors(include_url=False)) from None


@router.post("/v1/feedback", summary="Score an answer, from 0 to 1")
async def give_feedback(
    given: Annotated[Feedback, Depends(_feedback)], caller: Annotated[tuple[Services, Key], Depends(_caller)]
) -> JSONResponse:
    """Record the score. A repeat for the same request and source replaces it."""
    services, key = caller
    try:
        entry = await find_entry(services, given.request_id)
        if entry is None or not (key.admin or entry.key == key.name):
            raise _unknown(given.request_id)
        replaced = await record_score(services, entry, given.source, given.score)
    except (RedisError, OSError):
        message = "Redis, which holds the scores, does not answer. Try again in a moment."
        raise errors.unavailable(message, "store_unavailable") from None
    return JSONResponse({**given.model_dump(), "replaced": replaced})


async def record_score(services: Services, entry: Entry, source: str, score: float) -> bool:
    """Record a score of this entry's request, and return whether it replaces an earlier one.

    Raises:
        ApiError: 409 or 429, there is no room for it.
        RedisError, OSError: Redis is down.
    """
    try:
        return await feedback.record(services.ledger.redis, entry, source, score)
    except FullError as error:
        raise _full(str(error)) from None


async def find_entry(services: Services, request_id: str) -> Entry | None:
    """The request's entry, which may be on its way to Redis.

    Raises:
        RedisError, OSError: Redis is down.
    """
    for look in range(LOOKS):
        entry = await feedback.find_entry(services.ledger.redis, request_id, time.time())
        if entry is not None:
            return entry
        if look < LOOKS - 1:
            await asyncio.sleep(LOOK_SECONDS)
    return None


def _unknown(request_id: str) -> ApiError:
    """404: no request that this key may score."""
    return ApiError(
        404,
        f"request_id: this key has no request {request_id!r} of the last {feedback.MAX_AGE_DAYS} days. The id is the"
        " header x-request-id of the response.",
        param="request_id",
        code="request_not_found",
    )


def _full(what: str) -> ApiError:
    """409 or 429: there is no room for the score."""
    if what == "sources":
        most = feedback.MAX_SOURCES_A_REQUEST
        message = f"source: the request has scores from {most} sources, which is the most. Repeat one to replace it."
        return ApiError(409, message, param="source", code="too_many_sources")
    return ApiError(
        429,
        f"{feedback.MAX_REQUESTS_A_DAY} requests of that day have scores, which is the most.",
        kind="rate_limit_error",
        code="feedback_full",
        retry_after=3600,
    )
