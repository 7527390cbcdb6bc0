"""Who used what, and what did it cost? `GET /v1/usage`, as JSON or CSV: everything for an admin, its own for a key."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from redis.exceptions import RedisError

from gateway import duration, errors
from gateway.ledger.ledger import read_usage
from gateway.ledger.usage import DIMENSIONS, By, report
from gateway.services import Services

router = APIRouter()
CSV = "text/csv"


class Window(BaseModel):
    """The query of `GET /v1/usage`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    by: str = Field(
        default="key", examples=["key", "team,day"], description="one or several of team, key, day and checkpoint"
    )
    since: str | None = Field(
        default=None, examples=["30d", "2027-01-01"], description="from the hour of this time on; default: everything"
    )
    until: str | None = Field(
        default=None, examples=["2027-02-01"], description="only hours that begin before this time; default: now"
    )
    format: Literal["json", "csv"] | None = Field(default=None, description="default: what the header Accept prefers")

    @field_validator("by")
    @classmethod
    def _dimensions(cls, text: str) -> str:
        dimensions(text)
        return text

    @field_validator("since", "until")
    @classmethod
    def _moment(cls, text: str | None) -> str | None:
        if text is not None:
            duration.moment(text, 0.0)
        return text


def dimensions(text: str) -> tuple[By, ...]:
    """The dimensions in a list such as `team,day`.

    Raises:
        ValueError: one does not exist, or is there twice; the message is one line.
    """
    known: dict[str, By] = {one: one for one in DIMENSIONS}
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(DIMENSIONS)}")
    if len(set(names)) < len(names):
        raise ValueError("one of them is there twice")
    return tuple(known[name] for name in names)


@router.get("/v1/usage", summary="Report usage and cost by team, key, day and checkpoint")
async def usage(window: Annotated[Window, Query()], request: Request) -> Response:
    """Sums of whole hours. A key that is no admin's sees the usage of its own name."""
    services: Services = request.app.state.services
    key = services.keyring.authenticate(request.headers)
    now = time.time()
    since = 0.0 if window.since is None else duration.moment(window.since, now)
    until = math.inf if window.until is None else duration.moment(window.until, now)
    try:
        lines = await read_usage(services.ledger.redis, since, until)
    except (RedisError, OSError):
        raise errors.unavailable(
            "Redis, which holds the ledger, does not answer. Try again in a moment.", "store_unavailable"
        ) from None
    own = lines if key.admin else [(line, used) for line, used in lines if line.key == key.name]
    found = await asyncio.to_thread(report, own, dimensions(window.by), services.prices.current)
    if (window.format or _preferred(request)) == "csv":
        return Response(found.as_csv(), media_type=f"{CSV}; charset=utf-8")
    start, end = int(since // 3600) * 3600, None if math.isinf(until) else math.ceil(until / 3600) * 3600
    return JSONResponse({"since": start, "until": end, **found.as_json()})


def _preferred(request: Request) -> Literal["json", "csv"]:
    """What the header Accept asks for: CSV only if it names that, and not JSON before it."""
    wanted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return "csv" if CSV in wanted and "application/json" not in wanted[: wanted.index(CSV)] else "json"
