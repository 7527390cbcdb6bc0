"""What is at which URL? The ASGI application: endpoints, the request id, and what starts and stops with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import duration, errors, openapi
from gateway.access import keys
from gateway.access.keyring import ANONYMOUS, Keyring
from gateway.access.keys import Grant, KeyExistsError
from gateway.access.limits import Limiter
from gateway.answer import counting
from gateway.chat import Chat
from gateway.config import Settings
from gateway.engines.pool import Engines
from gateway.errors import ApiError, BadRequestError
from gateway.ledger.ledger import Ledger
from gateway.ledger.savings import By, compute_savings
from gateway.observe import logs
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracing
from gateway.request.admission import read_body, request_id
from models.family import MANIFEST, Checkpoint, Family, FamilyError
from models.profile import Profile


def create_app(
    settings: Settings,
    family: Family,
    profile: Profile,
    *,
    engines: Engines,
    keyring: Keyring,
    limiter: Limiter,
    ledger: Ledger,
) -> ASGIApp:
    """The gateway for one family.

    Raises:
        FamilyError: the family's tokenizer cannot be counted with, or its profile is of other checkpoints.
    """
    if unlike := sorted(set(profile.checkpoints) ^ {checkpoint.name for checkpoint in family.checkpoints}):
        raise FamilyError(f"{settings.family / family.profile}: {unlike[0]} is either in the profile or in the family")
    metrics = Metrics(ledger=ledger, limiter=limiter, engines=engines)
    tracing = Tracing(settings.otlp_endpoint)
    counter = counting.load(settings.family / family.tokenizer, family.tokenizer_pattern)
    chat = Chat(
        settings,
        family,
        profile,
        engines=engines,
        keyring=keyring,
        limiter=limiter,
        ledger=ledger,
        metrics=metrics,
        tracing=tracing,
        counter=counter,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        parts = (tracing, ledger, limiter, keyring, engines, metrics)
        for part in parts:
            await part.start()
        yield
        for part in reversed(parts):
            await part.aclose()

    app = FastAPI(title="Laconic", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    _answer_errors(app)
    _serve_models(app, keyring, _models(family, created=int((settings.family / MANIFEST).stat().st_mtime)))
    document = openapi.document(family, metadata.version("laconic"))
    _serve_operators(app, document, engines=engines, keyring=keyring, ledger=ledger, metrics=metrics)
    _serve_keys(app, settings, family, keyring)
    return _Front(app, chat)


def _serve_models(app: FastAPI, keyring: Keyring, models: dict[str, dict[str, Any]]) -> None:
    @app.get("/v1/models")
    async def list_models(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        keyring.authenticate(request.headers)
        return JSONResponse({"object": "list", "data": list(models.values())})

    @app.get("/v1/models/{model:path}")
    async def one_model(request: Request, model: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        keyring.authenticate(request.headers)
        if model not in models:
            raise errors.unknown_model(model)
        return JSONResponse(models[model])


def _serve_operators(
    app: FastAPI,
    document: dict[str, Any],
    *,
    engines: Engines,
    keyring: Keyring,
    ledger: Ledger,
    metrics: Metrics,
) -> None:
    def admin(request: Request) -> None:
        keyring.authenticate_admin(request.headers)

    @app.get("/v1/savings", dependencies=[Depends(admin)])
    async def savings(window: Annotated[_Window, Query()]) -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse(await _savings(ledger, window))

    @app.get("/openapi.json")
    async def schema() -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse(document)

    @app.get("/health/live")
    async def live() -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse({"status": "live"})

    @app.get("/health/ready")
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        missing = engines.missing
        # Not the ledger: serving goes on without Redis, and a gateway taken out for it would help nobody.
        body = {"status": "waiting" if missing else "ready", "missing_checkpoints": missing, "ledger": ledger.healthy}
        return JSONResponse(body, 503 if missing else 200)

    @app.get("/metrics", dependencies=[Depends(admin)])
    async def prometheus() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _serve_keys(app: FastAPI, settings: Settings, family: Family, keyring: Keyring) -> None:
    """Keys over HTTP, for who has an admin's key: the first is made by `laconic keys create`."""

    def admin(request: Request) -> None:
        # Otherwise any web page in a browser on this machine could create the first key and lock everyone else out.
        if keyring.authenticate_admin(request.headers) is ANONYMOUS:
            raise errors.forbidden("There is no key yet: make the first with `laconic keys create NAME --admin`.")

    @app.get("/v1/keys", dependencies=[Depends(admin)])
    async def list_keys() -> Response:  # pyright: ignore[reportUnusedFunction]
        with _store("keys"):
            await keyring.refresh()
        return JSONResponse({"object": "list", "data": [key.public() for key in keyring.keys]})

    @app.post("/v1/keys", dependencies=[Depends(admin)])
    async def create_key(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        try:
            body = await read_body(request, settings.max_body_bytes, settings.send_timeout_seconds)
            grant = Grant.model_validate_json(body)
            keys.check_checkpoints(grant, family)
        except ValidationError as error:
            raise _invalid(error.errors()[0]) from None
        except ValueError as error:
            raise BadRequestError(str(error), "checkpoints") from None
        with _store("keys"):
            try:
                secret, key = await keys.create(keyring.redis, grant)
            except KeyExistsError as error:
                raise ApiError(409, str(error), param="name", code="key_exists") from None
            await keyring.refresh()
        return JSONResponse({"key": secret, **key.public()}, 201)

    @app.delete("/v1/keys/{name}", dependencies=[Depends(admin)])
    async def revoke_key(name: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        with _store("keys"):
            if not await keys.revoke(keyring.redis, name):
                raise ApiError(404, f"There is no key named {name!r}.", param="name", code="key_not_found")
            await keyring.refresh()
        return JSONResponse({"name": name, "revoked": True})


@contextmanager
def _store(what: str) -> Generator[None]:
    """Redis away is the operator's trouble, and a 503 that says so."""
    try:
        yield
    except (RedisError, OSError):
        raise errors.unavailable(f"Redis, which has the {what}, does not answer now.", "store_unavailable") from None


class _Window(BaseModel):
    """What `GET /v1/savings` may be asked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    since: Annotated[float | None, BeforeValidator(lambda text: duration.seconds(str(text)))] = None
    by: By = "checkpoint"
    price: float | None = Field(default=None, ge=0, le=1e6)


async def _savings(ledger: Ledger, window: _Window) -> dict[str, object]:
    since = 0.0 if window.since is None else time.time() - window.since
    with _store("ledger"):
        books = await ledger.snapshot(since)
    # The bootstrap takes its time, and streams must not wait for it.
    savings = await asyncio.to_thread(compute_savings, books.cells, books.holdouts, window.by, books.since_hour)
    return {"since": books.since_hour * 3600, **savings.as_json(window.price)}


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape, the framework's own and the uncaught ones included."""

    @app.exception_handler(ApiError)
    async def ours(_: Request, error: ApiError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _error_response(error)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        path = request.url.path
        known = {
            404: ApiError(404, f"There is nothing at {path}.", code="not_found"),
            405: errors.method_not_allowed(request.method, path),
        }
        response = _error_response(known.get(error.status_code) or ApiError(error.status_code, str(error.detail)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        first = error.errors()[0]
        return _error_response(_invalid({**first, "loc": first["loc"][1:]}))

    @app.exception_handler(Exception)
    async def uncaught(_: Request, __: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _error_response(errors.internal())  # the server logs the traceback


def _invalid(first: Mapping[str, Any]) -> BadRequestError:
    """What pydantic found, naming the field."""
    field = ".".join(map(str, first["loc"]))
    message = str(first["msg"]).removeprefix("Value error, ")
    return BadRequestError(f"{field}: {message}" if field else message, field or None)


def _error_response(error: ApiError) -> Response:
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return Response(error.body(), error.status, headers, "application/json")


def _models(family: Family, created: int) -> dict[str, dict[str, Any]]:
    """What `/v1/models` lists, by id: the family, which lets the gateway choose, then every checkpoint."""
    common = {"object": "model", "created": created, "owned_by": "laconic", "context_tokens": family.context_tokens}
    models: dict[str, dict[str, Any]] = {
        family.name: {
            "id": family.name,
            **common,
            "description": family.description,
            "checkpoints": [family.served_name(checkpoint.name) for checkpoint in family.checkpoints],
        }
    }
    for checkpoint in family.checkpoints:
        name = family.served_name(checkpoint.name)
        models[name] = {"id": name, **common, "parent": family.name, **_measured(checkpoint)}
    return models


def _measured(checkpoint: Checkpoint) -> dict[str, Any]:
    overall = checkpoint.frontier.overall
    return {
        "alpha": checkpoint.alpha,
        "accuracy": overall.accuracy.model_dump(),
        "reasoning_tokens": overall.reasoning_tokens.model_dump(),
    }


class _Front:
    """Gives every request an id, and answers the two endpoints that take a chat request, which FastAPI never sees.

    Its way to an endpoint, and its wrapping of what is sent, cost a seventh of a streamed answer. Plain ASGI.
    """

    def __init__(self, app: ASGIApp, chat: Chat) -> None:
        self._app = app
        self._endpoints = {"/v1/chat/completions": chat.answer, "/v1/route": chat.explain}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        new = request_id()
        # A dict of its own: the server's is shared by all requests of a lifespan.
        scope["state"] = {**scope.get("state", {}), "request_id": new}
        logs.request_id.set(new)
        header = (b"x-request-id", new.encode())
        if (endpoint := self._endpoints.get(scope["path"])) is not None:
            await self._chat(endpoint, header, scope, receive, send)
            return

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, send_with_id)

    async def _chat(
        self,
        endpoint: Callable[[Request], Awaitable[Response]],
        header: tuple[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        bug: Exception | None = None
        try:
            if scope["method"] != "POST":
                raise errors.method_not_allowed(scope["method"], scope["path"], allowed="POST")
            response = await endpoint(Request(scope, receive, send))
        except ApiError as error:
            response = _error_response(error)
        except Exception as error:  # noqa: BLE001  a caller gets an answer, whatever is wrong here
            bug = error
            response = _error_response(errors.internal())
        response.raw_headers.append(header)
        await response(scope, receive, send)
        if bug is not None:
            raise bug  # the server logs the traceback
