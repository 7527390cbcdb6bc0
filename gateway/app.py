"""What is at which URL? The ASGI application: endpoints, the request id, and what starts and stops with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import budget, counting, duration, errors
from gateway.admission import request_id
from gateway.chat import Chat
from gateway.config import ConfigError, Settings
from gateway.engines import Engines
from gateway.errors import ApiError, BadRequestError
from gateway.ledger import Ledger
from gateway.savings import By, summarise
from gateway.telemetry import Telemetry
from models.family import MANIFEST, Checkpoint, Family, FamilyError
from models.profile import Profile


def create_app(settings: Settings, family: Family, profile: Profile, engines: Engines, ledger: Ledger) -> FastAPI:
    """The gateway for one family.

    Raises:
        ConfigError: the default budget is not one.
        FamilyError: the family's tokenizer cannot be counted with, or its profile is of other checkpoints.
    """
    try:
        budget.from_text(settings.default_budget, "default_budget", family)
    except BadRequestError as error:
        raise ConfigError(error.message) from None
    if unlike := sorted(set(profile.names) ^ {checkpoint.name for checkpoint in family.checkpoints}):
        raise FamilyError(f"{settings.family / family.profile}: {unlike[0]} is either in the profile or in the family")
    telemetry = Telemetry(ledger)
    counter = counting.load(settings.family / family.tokenizer)
    chat = Chat(settings, family, profile, engines=engines, ledger=ledger, telemetry=telemetry, counter=counter)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await ledger.start()
        await engines.start()
        yield
        await engines.aclose()
        await ledger.aclose()

    app = FastAPI(title="Laconic", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    _answer_errors(app)
    app.add_middleware(_RequestId)

    _serve_chats(app, chat)
    _serve_models(app, _models(family, created=int((settings.family / MANIFEST).stat().st_mtime)))
    _serve_operators(app, engines, ledger, telemetry)
    return app


def _serve_chats(app: FastAPI, chat: Chat) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await chat.answer(request)

    @app.post("/v1/route")
    async def route(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        return await chat.explain(request)


def _serve_models(app: FastAPI, models: dict[str, dict[str, Any]]) -> None:
    @app.get("/v1/models")
    async def list_models() -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse({"object": "list", "data": list(models.values())})

    @app.get("/v1/models/{model:path}")
    async def one_model(model: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        if model not in models:
            raise errors.unknown_model(model)
        return JSONResponse(models[model])


def _serve_operators(app: FastAPI, engines: Engines, ledger: Ledger, telemetry: Telemetry) -> None:
    @app.get("/v1/savings")
    async def savings(window: Annotated[_Window, Query()]) -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse(await _savings(ledger, window))

    @app.get("/health/live")
    async def live() -> Response:  # pyright: ignore[reportUnusedFunction]
        return JSONResponse({"status": "live"})

    @app.get("/health/ready")
    async def ready() -> Response:  # pyright: ignore[reportUnusedFunction]
        missing = engines.missing
        # Not the ledger: serving goes on without Redis, and a gateway taken out for it would help nobody.
        body = {"status": "waiting" if missing else "ready", "missing_checkpoints": missing, "ledger": ledger.healthy}
        return JSONResponse(body, 503 if missing else 200)

    @app.get("/metrics")
    async def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(telemetry.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Window(BaseModel):
    """What `GET /v1/savings` may be asked."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    since: Annotated[float | None, BeforeValidator(lambda text: duration.seconds(str(text)))] = None
    by: By = "checkpoint"
    price: float | None = Field(default=None, ge=0, le=1e6)


async def _savings(ledger: Ledger, window: _Window) -> dict[str, object]:
    since = 0.0 if window.since is None else time.time() - window.since
    try:
        books = await ledger.books(since)
    except (RedisError, OSError):
        raise errors.unavailable("The ledger's Redis does not answer now.") from None
    # The bootstrap takes its time, and streams must not wait for it.
    savings = await asyncio.to_thread(summarise, books.cells, books.holdouts, window.by, books.since_hour)
    return {"since": books.since_hour * 3600, **savings.as_json(window.price)}


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape, the framework's own and the uncaught ones included."""

    @app.exception_handler(ApiError)
    async def ours(_: Request, error: ApiError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _error_response(error)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        message, code = {
            404: (f"There is nothing at {request.url.path}.", "not_found"),
            405: (f"{request.method} is not allowed at {request.url.path}.", "method_not_allowed"),
        }.get(error.status_code, (str(error.detail), None))
        response = _error_response(ApiError(error.status_code, message, code=code))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def validation(_: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"][1:]))
        message = str(first["msg"]).removeprefix("Value error, ")
        return _error_response(BadRequestError(f"{field}: {message}" if field else message, field or None))

    @app.exception_handler(Exception)
    async def uncaught(request: Request, _: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        response = _error_response(errors.internal())  # the server logs the traceback
        # This handler runs outside of all middleware, so the id is put on here.
        response.headers["x-request-id"] = request.state.request_id
        return response


def _error_response(error: ApiError) -> Response:
    headers = {} if error.retry_after is None else {"retry-after": str(error.retry_after)}
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


class _RequestId:
    """Gives every request an id and every response its header. Plain ASGI, for streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        new = request_id()
        # A dict of its own: the server's is shared by all requests of a lifespan.
        scope["state"] = {**scope.get("state", {}), "request_id": new}

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = new
            await send(message)

        await self._app(scope, receive, send_with_id)
