"""What is at which URL? The ASGI application: its routes, what surrounds every endpoint, and its start and stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway import duration, errors, openapi
from gateway.access import keys
from gateway.access.keyring import ANONYMOUS
from gateway.access.keys import Grant, KeyExistsError
from gateway.chat import ChatEndpoint
from gateway.errors import ApiError, BadRequestError
from gateway.ledger.savings import By, compute_savings
from gateway.observe import logs
from gateway.request.admission import read_body, request_id
from gateway.services import Services
from models.family import MANIFEST, Checkpoint, Family

Handler = Callable[[Request], Awaitable[Response]]


def create_app(services: Services) -> ASGIApp:
    """The gateway for one family. Its lifespan starts and stops the services."""
    chat, models = ChatEndpoint(services), ModelsEndpoint(services)
    operator, admin = OperatorEndpoint(services), KeysEndpoint(services)

    @asynccontextmanager
    async def lifespan(_: Router) -> AsyncGenerator[None]:
        await services.start()
        yield
        await services.aclose()

    routes = [
        Route("/v1/chat/completions", Endpoint(POST=chat.complete)),
        Route("/v1/route", Endpoint(POST=chat.explain)),
        Route("/v1/models", Endpoint(GET=models.list)),
        Route("/v1/models/{model:path}", Endpoint(GET=models.retrieve)),
        Route("/v1/savings", Endpoint(GET=operator.savings)),
        Route("/v1/keys", Endpoint(GET=admin.list, POST=admin.create)),
        Route("/v1/keys/{name}", Endpoint(DELETE=admin.revoke)),
        Route("/openapi.json", Endpoint(GET=operator.openapi)),
        Route("/health/live", Endpoint(GET=operator.live)),
        Route("/health/ready", Endpoint(GET=operator.ready)),
        Route("/metrics", Endpoint(GET=operator.metrics)),
        Route("/{path:path}", Endpoint()),
    ]
    return Router(routes, redirect_slashes=False, lifespan=lifespan)


class Endpoint:
    """What surrounds every endpoint: the request's id, its method, and the one path by which errors leave.

    A raw ASGI application, because Starlette's middleware and its wrapper for functions put a call around every
    message that is sent. For a streamed answer that cost a seventh of the gateway's time.
    """

    def __init__(self, **handlers: Handler) -> None:
        """The handlers by method; without any, nothing is at this path."""
        self._handlers = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        new = request_id()
        # A new dict: the server's is shared by all requests of a lifespan.
        scope["state"] = {**scope.get("state", {}), "request_id": new}
        logs.request_id.set(new)
        bug: Exception | None = None
        try:
            response = await self._handler(scope)(Request(scope, receive, send))
        except Exception as error:  # noqa: BLE001  the caller gets a response, whatever went wrong
            response = errors.response(error)
            bug = error if response.status_code == errors.INTERNAL else None
        response.raw_headers.append((b"x-request-id", new.encode()))
        await response(scope, receive, send)
        if bug is not None:
            raise bug  # the server logs the traceback

    def _handler(self, scope: Scope) -> Handler:
        if not self._handlers:
            raise errors.not_found(scope["path"])
        if (handler := self._handlers.get(scope["method"])) is None:
            raise errors.method_not_allowed(scope["method"], scope["path"], ", ".join(self._handlers))
        return handler


class ModelsEndpoint:
    """`/v1/models`: the family, which lets the gateway choose, then every checkpoint."""

    def __init__(self, services: Services) -> None:
        self._keyring = services.keyring
        created = int((services.settings.family / MANIFEST).stat().st_mtime)
        self._models = _models(services.family, created)

    async def list(self, request: Request) -> Response:
        self._keyring.authenticate(request.headers)
        return JSONResponse({"object": "list", "data": [*self._models.values()]})

    async def retrieve(self, request: Request) -> Response:
        self._keyring.authenticate(request.headers)
        name = request.path_params["model"]
        if name not in self._models:
            raise errors.unknown_model(name)
        return JSONResponse(self._models[name])


class OperatorEndpoint:
    """What an operator and monitoring read: health, metrics, savings and the OpenAPI document."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._document = openapi.document(services.family, metadata.version("laconic"))

    async def live(self, _: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def ready(self, _: Request) -> Response:
        missing, ledger = self._services.engines.missing, self._services.ledger
        # The ledger does not count: the gateway serves without Redis, and taking it out of service would help nobody.
        body = {"status": "waiting" if missing else "ready", "missing_checkpoints": missing, "ledger": ledger.healthy}
        return JSONResponse(body, 503 if missing else 200)

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def metrics(self, request: Request) -> Response:
        self._services.keyring.authenticate_admin(request.headers)
        exposition = self._services.metrics.exposition()
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def savings(self, request: Request) -> Response:
        self._services.keyring.authenticate_admin(request.headers)
        try:
            window = _Window.model_validate(dict(request.query_params))
        except ValidationError as error:
            raise errors.invalid(error) from None
        since = 0.0 if window.since is None else time.time() - window.since
        with _redis("the ledger"):
            snapshot = await self._services.ledger.snapshot(since)
        # In a thread, because the bootstrap takes long and streams must not wait for it.
        savings = await asyncio.to_thread(
            compute_savings, snapshot.cells, snapshot.holdouts, window.by, snapshot.since_hour
        )
        return JSONResponse({"since": snapshot.since_hour * 3600, **savings.as_json(window.price)})


class KeysEndpoint:
    """`/v1/keys`, for callers with an admin's key. `laconic keys create` makes the first one."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def list(self, request: Request) -> Response:
        self._require_admin(request)
        keyring = self._services.keyring
        with _redis("the keys"):
            await keyring.refresh()
        return JSONResponse({"object": "list", "data": [key.public() for key in keyring.keys]})

    async def create(self, request: Request) -> Response:
        self._require_admin(request)
        settings, keyring = self._services.settings, self._services.keyring
        body = await read_body(request, settings.max_body_bytes, settings.send_timeout_seconds)
        try:
            grant = Grant.model_validate_json(body)
            keys.check_checkpoints(grant, self._services.family)
        except ValidationError as error:
            raise errors.invalid(error) from None
        except ValueError as error:
            raise BadRequestError(str(error), "checkpoints") from None
        with _redis("the keys"):
            try:
                secret, key = await keys.create(keyring.redis, grant)
            except KeyExistsError as error:
                raise ApiError(409, str(error), param="name", code="key_exists") from None
            await keyring.refresh()
        return JSONResponse({"key": secret, **key.public()}, 201)

    async def revoke(self, request: Request) -> Response:
        self._require_admin(request)
        name, keyring = request.path_params["name"], self._services.keyring
        with _redis("the keys"):
            if not await keys.revoke(keyring.redis, name):
                message = f"There is no key named {name!r}. GET /v1/keys lists them."
                raise ApiError(404, message, param="name", code="key_not_found")
            await keyring.refresh()
        return JSONResponse({"name": name, "revoked": True})

    def _require_admin(self, request: Request) -> None:
        # Without keys everybody is an admin; any page in a browser on this machine could then lock its user out.
        if self._services.keyring.authenticate_admin(request.headers) is ANONYMOUS:
            raise errors.forbidden("There is no key yet: make the first with `laconic keys create NAME --admin`.")


@contextmanager
def _redis(what: str) -> Generator[None]:
    """Turn an outage of Redis into a 503 that names it."""
    try:
        yield
    except (RedisError, OSError):
        message = f"Redis, which holds {what}, does not answer. Try again in a moment."
        raise errors.unavailable(message, "store_unavailable") from None


class _Window(BaseModel):
    """The query of `GET /v1/savings`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    since: Annotated[float | None, BeforeValidator(lambda text: duration.seconds(str(text)))] = None
    by: By = "checkpoint"
    price: float | None = Field(default=None, ge=0, le=1e6)


def _models(family: Family, created: int) -> dict[str, dict[str, Any]]:
    """What `/v1/models` lists, by id."""
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
