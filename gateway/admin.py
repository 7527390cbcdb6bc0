"""What may an operator read and change over HTTP? The typed endpoints for savings, usage and keys; FastAPI serves them.

`gateway.feedback`, which callers may use, is part of the same application.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException

from gateway import duration, errors, feedback
from gateway.access import keys
from gateway.access.keys import Grant, KeyExistsError
from gateway.errors import ApiError, BadRequestError
from gateway.ledger import shadows
from gateway.ledger.drift import compute_drift
from gateway.ledger.feedback import read_scores
from gateway.ledger.ledger import read_books, read_usage
from gateway.ledger.money import compute_money
from gateway.ledger.quality import compute_quality
from gateway.ledger.savings import By, compute_savings
from gateway.ledger.usage import dimensions, report
from gateway.request.admission import Tenant
from gateway.services import Services

router = APIRouter()
CSV = "text/csv"
router.include_router(feedback.router)


def create_admin(services: Services) -> FastAPI:
    """The admin endpoints as an ASGI application. Every error leaves through `gateway.errors.response`."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    for kind in (ApiError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _respond)
    app.include_router(router)
    return app


async def _respond(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        error = errors.method_not_allowed(request.method, request.url.path, allowed)
    elif isinstance(error, RequestValidationError):
        error = errors.invalid(error.errors(), placed=True)
    return errors.response(error)


def _for_admins(request: Request) -> Services:
    """The gateway's services, for callers with an admin's key."""
    services: Services = request.app.state.services
    services.keyring.authenticate_admin(request.headers)
    return services


Open = Annotated[Services, Depends(_for_admins)]


def _for_admins_with_key(services: Open) -> Services:
    """The same, but never without a key."""
    # Without keys everybody is an admin; any page in a browser on this machine could then lock its user out.
    if not services.keyring.requires_key:
        raise errors.forbidden("There is no key yet: make the first with `laconic keys create NAME --admin`.")
    return services


Locked = Annotated[Services, Depends(_for_admins_with_key)]


def _seconds(text: str | None) -> float | None:
    return None if text is None else duration.seconds(text)


class Window(BaseModel):
    """The query of `GET /v1/savings`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    since: Annotated[float | None, BeforeValidator(_seconds, json_schema_input_type=str | None)] = Field(
        default=None, examples=["24h"]
    )
    """In seconds. None for everything."""
    by: By = "checkpoint"
    price: float | None = Field(default=None, ge=0, le=1e6)


@router.get("/v1/savings", summary="Report reasoning tokens spent and saved")
async def savings(window: Annotated[Window, Query()], services: Open) -> JSONResponse:
    """Sums by one dimension, estimated and measured, whether the prompts have drifted, and what it cost in quality."""
    since = 0.0 if window.since is None else time.time() - window.since
    prices = services.prices.current
    with _redis("the ledger"):
        snapshot, lines = await read_books(services.ledger.redis, since, priced=prices is not None)
        scores = await read_scores(services.ledger.redis, since)
        compared = await shadows.read(services.ledger.redis, since)
    # In threads, because the bootstrap takes long and streams must not wait for it.
    result = await asyncio.to_thread(compute_savings, snapshot.cells, snapshot.holdouts, window.by, snapshot.since_hour)
    drift = await asyncio.to_thread(compute_drift, snapshot.cells)
    quality = await asyncio.to_thread(compute_quality, snapshot.cells, scores, window.by, None, snapshot.since_hour)
    figures = {**result.as_json(window.price), "drift": drift.as_json(), "quality": quality.as_json()}
    figures["shadows"] = shadows.compare(compared).as_json()
    if prices is not None:
        spent = [one.spent for one in compared]
        of = (lines, snapshot.holdouts, prices, services.family.reference)
        money = await asyncio.to_thread(compute_money, *of, by=window.by, shadows=spent)
        figures["money"] = money.as_json()
    return JSONResponse({"since": snapshot.since_hour * 3600, **figures})


class UsageWindow(BaseModel):
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


@router.get("/v1/usage", summary="Report usage and cost by team, key, day and checkpoint")
async def usage(window: Annotated[UsageWindow, Query()], request: Request) -> Response:
    """Sums of whole hours. A key that is no admin's sees the usage of its own name."""
    services: Services = request.app.state.services
    key = services.keyring.authenticate(request.headers)
    now = time.time()
    since = 0.0 if window.since is None else duration.moment(window.since, now)
    until = math.inf if window.until is None else duration.moment(window.until, now)
    with _redis("the ledger"):
        lines = await read_usage(services.ledger.redis, since, until)
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


@router.get("/v1/keys", summary="List the keys")
async def list_keys(services: Locked) -> JSONResponse:
    """Every key without its secret."""
    with _redis("the keys"):
        await services.keyring.refresh()
    return JSONResponse({"object": "list", "data": [key.public() for key in services.keyring.keys]})


async def _grant(request: Request, services: Locked) -> Grant:
    """The grant in the body, which is read no further than `max_body_bytes`."""
    tenant = Tenant(services.keyring.authenticate(request.headers).name, services.keyring.is_shared)
    body = await services.admission.read_body(request, tenant, services.settings.send_timeout_seconds)
    try:
        grant = Grant.model_validate_json(body)
        keys.check_checkpoints(grant, services.family)
        if grant.money and services.prices.current is None:
            field = "money_per_day" if grant.money_per_day is not None else "money_per_month"
            raise BadRequestError(
                f"{field}: this gateway has no prices (--prices), so it cannot keep this limit", field
            )
    except ValidationError as error:
        raise errors.invalid(error.errors(include_url=False)) from None
    except ValueError as error:
        raise BadRequestError(str(error), "checkpoints") from None
    return grant


@router.post("/v1/keys", status_code=201, summary="Create a key")
async def create_key(grant: Annotated[Grant, Depends(_grant)], services: Locked) -> JSONResponse:
    """The secret is shown this once."""
    with _redis("the keys"):
        try:
            secret, key = await keys.create(services.keyring.redis, grant)
        except KeyExistsError as error:
            raise ApiError(409, str(error), param="name", code="key_exists") from None
        await services.keyring.refresh()
    return JSONResponse({"key": secret, **key.public()}, 201)


@router.delete("/v1/keys/{name}", summary="Revoke a key")
async def revoke_key(name: str, services: Locked) -> JSONResponse:
    """Requests with it are rejected from now on."""
    with _redis("the keys"):
        if not await keys.revoke(services.keyring.redis, name):
            message = f"There is no key named {name!r}. GET /v1/keys lists them."
            raise ApiError(404, message, param="name", code="key_not_found")
        await services.keyring.refresh()
    return JSONResponse({"name": name, "revoked": True})


@contextmanager
def _redis(what: str) -> Generator[None]:
    """Turn an outage of Redis into a 503 that names it."""
    try:
        yield
    except (RedisError, OSError):
        message = f"Redis, which holds {what}, does not answer. Try again in a moment."
        raise errors.unavailable(message, "store_unavailable") from None
