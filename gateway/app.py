"""What is at which URL? The ASGI application: its routes, what surrounds every endpoint, and its start and stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import errors, openapi
from gateway.admin import create_admin
from gateway.chat import ChatEndpoint
from gateway.engines.replica import EngineState
from gateway.errors import ApiError
from gateway.observe import logs
from gateway.request.admission import request_id
from gateway.services import Services
from models.family import MANIFEST, Checkpoint, Family

Handler = Callable[[Request], Awaitable[Response]]


def create_app(services: Services) -> ASGIApp:
    """The gateway for one family. Its lifespan starts and stops the services."""
    chat, models = ChatEndpoint(services), ModelsEndpoint(services)
    operator, admin = OperatorEndpoint(services), AdminEndpoint(create_admin(services))

    @asynccontextmanager
    async def lifespan(_: Router) -> AsyncGenerator[None]:
        await services.start()
        yield
        await services.aclose()

    routes = [
        Route("/v1/chat/completions", Endpoint(POST=chat.complete)),
        Route("/v1/route", Endpoint(POST=chat.explain_route)),
        Route("/v1/models", Endpoint(GET=models.list)),
        Route("/v1/models/{model:path}", Endpoint(GET=models.retrieve)),
        *(Route(path, admin) for path in ("/v1/savings", "/v1/keys", "/v1/keys/{name}")),
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
        new = _new_request_id(scope)
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


def _new_request_id(scope: Scope) -> str:
    """Give the request its id, for its handler and for log lines."""
    new = request_id()
    # A new dict: the server's is shared by all requests of a lifespan.
    scope["state"] = {**scope.get("state", {}), "request_id": new}
    logs.request_id.set(new)
    return new


class AdminEndpoint:
    """FastAPI's endpoints, with the request's id in their responses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        header = (b"x-request-id", _new_request_id(scope).encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], header]
            await send(message)

        await self._app(scope, receive, send_with_id)


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

    async def ready(self, request: Request) -> Response:
        engines, ledger = self._services.engines, self._services.ledger
        missing = engines.missing
        # The ledger does not count: the gateway serves without Redis, and taking it out of service would help nobody.
        body = {
            "status": "waiting" if missing else "ready",
            "missing_checkpoints": missing,
            "engines": self._engines(request),
            "ledger": ledger.healthy,
        }
        return JSONResponse(body, 503 if missing else 200)

    def _engines(self, request: Request) -> list[dict[str, Any]]:
        """What each engine serves or why it does not, in the configured order; with their URLs only for an admin."""
        try:
            self._services.keyring.authenticate_admin(request.headers)
            shows_url = True
        except ApiError:
            shows_url = False
        return [{"url": one.url, **_state(one)} if shows_url else _state(one) for one in self._services.engines.states]

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def metrics(self, request: Request) -> Response:
        self._services.keyring.authenticate_admin(request.headers)
        exposition = self._services.metrics.exposition()
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


def _state(engine: EngineState) -> dict[str, Any]:
    return {"up": engine.problem is None, "serves": engine.serves, "problem": engine.problem}


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
