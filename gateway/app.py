"""What is at which URL? The ASGI application: its routes, what surrounds every endpoint, and its start and stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import errors, openapi
from gateway.access.guesses import Guesses
from gateway.access.keyring import Keyring
from gateway.admin import create_admin
from gateway.chat import ChatEndpoint
from gateway.dashboard.endpoints import DashboardEndpoint
from gateway.decisions import DecisionsEndpoint
from gateway.errors import ApiError
from gateway.observe import logs
from gateway.observe.health import health
from gateway.outcomes import Outcomes
from gateway.release import VERSION
from gateway.request import browsers
from gateway.request.admission import request_id
from gateway.request.headers import IndexedHeaders
from gateway.services import Services
from gateway.shadows import Shadows
from gateway.surfaces.surface import CHAT, COMPLETIONS, COUNTED, MESSAGES, RESPONSES, Surface
from models.family import MANIFEST, Checkpoint

SURFACES = {
    "/v1/chat/completions": CHAT,
    "/v1/messages": MESSAGES,
    "/v1/responses": RESPONSES,
    "/v1/completions": COMPLETIONS,
}
"""The APIs in which a request can be answered."""

Handler = Callable[[Request], Awaitable[Response]]


def create_app(services: Services) -> ASGIApp:
    """The gateway for one family. Its lifespan starts and stops the services."""
    door = Door(services.keyring, frozenset(services.settings.cors_origin))
    chat, models = ChatEndpoint(services), ModelsEndpoint(services)
    shadows = Shadows(services) if services.settings.shadow_fraction > 0 else None
    chats = {path: ChatEndpoint(services, api, shadows) for path, api in SURFACES.items()}
    counted = ChatEndpoint(services, COUNTED)
    decisions, outcomes = DecisionsEndpoint(services), Outcomes(services)
    dashboard = DashboardEndpoint(services, door.refuse)
    operator, admin = OperatorEndpoint(services), AdminEndpoint(door, create_admin(services))

    @asynccontextmanager
    async def lifespan(_: Router) -> AsyncGenerator[None]:
        await services.start()
        outcomes.start()
        yield
        await outcomes.aclose()
        if shadows is not None:
            await shadows.aclose()
        await dashboard.aclose()
        await services.aclose()

    routes = [
        *(Route(path, Endpoint(door, SURFACES[path], POST=one.complete)) for path, one in chats.items()),
        Route("/v1/messages/count_tokens", Endpoint(door, COUNTED, POST=counted.count_tokens)),
        Route("/v1/decisions", Endpoint(door, POST=decisions.decide)),
        Route("/v1/outcomes", Endpoint(door, POST=outcomes.report)),
        Route("/v1/route", Endpoint(door, POST=chat.explain_route)),
        *(Route(path, Endpoint(door, GET=models.list)) for path in ("/v1/models", "/v1/models/")),
        Route("/v1/models/{model:path}", Endpoint(door, GET=models.retrieve)),
        *(Route(path, admin) for path in ("/v1/savings", "/v1/usage", "/v1/feedback", "/v1/keys", "/v1/keys/{name}")),
        *_dashboard(dashboard, door, has_page=services.settings.dashboard),
        Route("/openapi.json", Endpoint(door, GET=operator.openapi)),
        *(Route(path, Endpoint(door, GET=operator.live)) for path in ("/health", "/health/live", "/ping")),
        Route("/version", Endpoint(door, GET=operator.version)),
        Route("/health/ready", Endpoint(door, GET=operator.ready)),
        Route("/metrics", Endpoint(door, GET=operator.metrics)),
    ]
    return _Front(routes, Router(routes, redirect_slashes=False, default=Endpoint(door), lifespan=lifespan))


def _dashboard(dashboard: DashboardEndpoint, door: Door, *, has_page: bool) -> list[Route]:
    """The routes of the figures for an operator, and of the page that shows them, unless it is off."""
    figures = [
        Route("/v1/overview", Endpoint(door, GET=dashboard.overview)),
        Route("/v1/overview/stream", Endpoint(door, GET=dashboard.stream)),
    ]
    if not has_page:
        return figures
    return [
        *figures,
        *(Route(path, Endpoint(door, GET=dashboard.page)) for path in ("/dashboard", "/dashboard/")),
        Route("/dashboard/login", Endpoint(door, GET=dashboard.login_form, POST=dashboard.log_in)),
        Route("/dashboard/logout", Endpoint(door, POST=dashboard.log_out)),
        Route("/dashboard/overview", Endpoint(door, GET=dashboard.overview_for_page)),
        Route("/dashboard/stream", Endpoint(door, GET=dashboard.stream_for_page)),
        Route("/dashboard/static/{version}/{name}", Endpoint(door, GET=dashboard.static)),
    ]


class _Front:
    """The router, with the endpoints at fixed paths found at once: the router compares them one by one."""

    def __init__(self, routes: list[Route], router: Router) -> None:
        self._router = router
        self._endpoints = {route.path: route.app for route in routes if "{" not in route.path}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        await (self._router if endpoint is None else endpoint)(scope, receive, send)


class _Request(Request):
    """A request whose headers are found by name."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, send)
        self._headers = IndexedHeaders(scope)  # where Starlette keeps them


class Door:
    """What surrounds every request: may the web page that sent it do so, and how fast are wrong keys refused?"""

    def __init__(self, keyring: Keyring, origins: frozenset[str]) -> None:
        """`origins` are the pages that may read answers."""
        self._keyring, self._origins = keyring, origins
        self._guesses = Guesses()

    async def refuse(self, status: int) -> None:
        """Wait before a response with this status leaves, if many keys were wrong lately."""
        if status == errors.UNAUTHORIZED:
            await self._guesses.refused()

    def answer(self, request: Request) -> Response | None:
        """The response to a browser's question about what its page may send; None for any other request.

        Raises:
            ApiError: 403 or 415, a foreign page may have sent it, and there are no keys.
        """
        if not self._keyring.requires_key:
            browsers.check(request.method, request.headers, self._origins)
        return browsers.preflight(request.method, request.headers, self._origins) if self._origins else None

    def headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        """What the response says to a browser about the page that asked."""
        return browsers.cors_headers(request.headers, self._origins) if self._origins else []


class Endpoint:
    """What surrounds every endpoint: the request's id, its method, and the one path by which errors leave.

    A raw ASGI application, because Starlette's middleware and its wrapper for functions put a call around every
    message that is sent. For a streamed answer that cost a seventh of the gateway's time.
    """

    def __init__(self, door: Door, surface: Surface = CHAT, **handlers: Handler) -> None:
        """
        Args:
            surface: the API that callers speak here, whose shape errors have.
            handlers: by method; without any, nothing is at this path.
        """
        self._door, self._surface, self._handlers = door, surface, handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        new = _new_request_id(scope)
        bug: Exception | None = None
        request = _Request(scope, receive, send)
        try:
            response = self._door.answer(request) or await self._handler(scope)(request)
        except Exception as error:  # noqa: BLE001  the caller gets a response, whatever went wrong
            response = errors.response(error, self._surface.error, new)
            bug = error if response.status_code == errors.INTERNAL else None
            await self._door.refuse(response.status_code)
        response.raw_headers += [*((name, new.encode()) for name in self._surface.ids), *self._door.headers(request)]
        del request  # a silent stream would hold its headers
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

    def __init__(self, door: Door, app: ASGIApp) -> None:
        self._door, self._app = door, app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        more = [(b"x-request-id", _new_request_id(scope).encode()), *self._door.headers(request)]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                await self._door.refuse(message["status"])
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            app = self._door.answer(request) or self._app
        except ApiError as error:
            app = errors.response(error)
        await app(scope, receive, send_with_id)


class ModelsEndpoint:
    """`/v1/models`: the family, which lets the gateway choose, then every checkpoint."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._created = int((services.settings.family / MANIFEST).stat().st_mtime)

    async def list(self, request: Request) -> Response:
        self._services.keyring.authenticate(request.headers)
        return JSONResponse({"object": "list", "data": [*self._models().values()]})

    async def retrieve(self, request: Request) -> Response:
        self._services.keyring.authenticate(request.headers)
        name, models = request.path_params["model"], self._models()
        if name not in models:
            raise errors.unknown_model(name)
        return JSONResponse(models[name])

    def _models(self) -> dict[str, dict[str, Any]]:
        """What is listed, by id, as far as it is known now."""
        services, family = self._services, self._services.family
        common = {"object": "model", "created": self._created, "owned_by": "laconic"}
        models: dict[str, dict[str, Any]] = {
            family.name: {
                "id": family.name,
                **common,
                "context_tokens": family.context_tokens,
                "description": family.description,
                "checkpoints": [family.served_name(checkpoint.name) for checkpoint in family.checkpoints],
                "surfaces": [*SURFACES],
            }
        }
        for checkpoint in family.checkpoints:
            name = family.served_name(checkpoint.name)
            context = services.engines.context_of(checkpoint.name) or family.context_tokens
            models[name] = {
                "id": name,
                **common,
                "context_tokens": min(context, family.context_tokens),
                "parent": family.name,
                **_measured(checkpoint),
                "abilities": self._abilities(checkpoint),
            }
        return models

    def _abilities(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """What it can do; null for what no request has shown yet."""
        services = self._services
        by_engine = checkpoint.cap != "forced" and services.engines.keeps_caps(checkpoint.name)
        capped_by = "engine" if by_engine else "gateway"
        return {
            "reasoning": services.family.reasoning is not None,
            "thinking_capped_by": None if checkpoint.cap == "none" else capped_by,
            **services.abilities.of(checkpoint.name),
        }


class OperatorEndpoint:
    """What an operator and monitoring read: health, metrics, savings and the OpenAPI document."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._document = openapi.document(services.family, VERSION)

    async def live(self, _: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def version(self, _: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def ready(self, request: Request) -> Response:
        services = self._services
        body = health(services.engines, services.ledger, services.metrics, is_admin=self._is_admin(request))
        return JSONResponse(body, 503 if body["missing_checkpoints"] else 200)

    def _is_admin(self, request: Request) -> bool:
        try:
            self._services.keyring.authenticate_admin(request.headers)
        except ApiError:
            return False
        return True

    async def openapi(self, _: Request) -> Response:
        return JSONResponse(self._document)

    async def metrics(self, request: Request) -> Response:
        self._services.keyring.authenticate_admin(request.headers)
        exposition = self._services.metrics.exposition()
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")


def _measured(checkpoint: Checkpoint) -> dict[str, Any]:
    overall = checkpoint.frontier.overall
    return {
        "alpha": checkpoint.alpha,
        "accuracy": overall.accuracy.model_dump(),
        "reasoning_tokens": overall.reasoning_tokens.model_dump(),
    }
