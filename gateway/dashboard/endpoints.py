"""What is at the dashboard's URLs? The page, its login, its files, its figures, and their stream of updates.

    /dashboard          the page               /dashboard/static/...  its files, for everybody
    /dashboard/login    a form for a key       /dashboard/overview    its figures, for its cookie
    /dashboard/logout                          /dashboard/stream      the same, as server-sent events
    /v1/overview        its figures, for an admin's key              /v1/overview/stream

The cookie is worth nothing at any other URL. Without keys there is no login: `gateway.request.browsers` then keeps
foreign pages away from everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast
from urllib.parse import parse_qs

from pydantic import BaseModel, ConfigDict, ValidationError
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway import errors
from gateway.dashboard import assets, session
from gateway.dashboard.calculator import Calculator
from gateway.dashboard.figures import Window
from gateway.dashboard.overviews import REFRESH_SECONDS, Overviews
from gateway.errors import ApiError, BadRequestError
from gateway.services import Services

MAX_STREAMS = 64
"""Pages that one worker keeps up to date at once."""
MAX_LOGIN_BYTES = 2048
LOGIN_SECONDS = 5.0
_SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # without a referrer, forms would be sent with the origin `null`
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_FRESH = {**_SECURITY, "cache-control": "no-store"}
_FOREVER = {**_SECURITY, "cache-control": "public, max-age=31536000, immutable"}


class OverviewQuery(BaseModel):
    """The query of `GET /v1/overview`."""

    model_config = ConfigDict(extra="forbid")
    since: Window = "7d"
    """How far back the figures go."""


class DashboardEndpoint:
    """The dashboard of one process."""

    def __init__(self, services: Services, refuse: Callable[[int], Awaitable[None]]) -> None:
        """`refuse` waits before a refusal with this status leaves."""
        self._services, self._refuse = services, refuse
        self._calculator = Calculator()
        self._overviews = Overviews(services, self._calculator.compute)
        self._assets = assets.load()
        self._streams = 0

    async def aclose(self) -> None:
        """Stop computing."""
        await self._overviews.aclose()
        await self._calculator.aclose()

    async def page(self, request: Request) -> Response:
        """The page, or the way to the login."""
        if not self._is_logged_in(request):
            return RedirectResponse("/dashboard/login", 303, _FRESH)
        return self._html("page.html")

    async def login_form(self, _: Request) -> Response:
        """The form that asks for a key."""
        if not self._services.keyring.requires_key:
            return RedirectResponse("/dashboard", 303, _FRESH)
        return self._html("login.html")

    async def log_in(self, request: Request) -> Response:
        """Set the cookie if the form has an admin's key; otherwise say what is wrong, after a while if many were."""
        keyring = self._services.keyring
        if not keyring.requires_key:
            return RedirectResponse("/dashboard", 303, _FRESH)
        session.check_same_origin(request.headers)
        secret = await _posted_key(request)
        try:
            key = keyring.authenticate_admin(_sent_with(secret))
        except ApiError as error:
            await self._refuse(error.status)
            return self._html(f"login-{'admin' if error.status == 403 else 'wrong'}.html", error.status)
        response = RedirectResponse("/dashboard", 303, _FRESH)
        response.set_cookie(
            session.COOKIE,
            session.issue(key, time.time()),
            max_age=session.SECONDS,
            path=session.PATH,
            # A proxy that speaks TLS says so; whoever else does harms only itself.
            secure="https" in (request.url.scheme, request.headers.get("x-forwarded-proto")),
            httponly=True,
            samesite="strict",
        )
        return response

    async def log_out(self, request: Request) -> Response:
        """Delete the cookie."""
        session.check_same_origin(request.headers)
        response = RedirectResponse("/dashboard/login", 303, _FRESH)
        response.delete_cookie(session.COOKIE, path=session.PATH, httponly=True, samesite="strict")
        return response

    async def static(self, request: Request) -> Response:
        """A file of the page. Its path has a version, so it never changes."""
        version, name = request.path_params["version"], request.path_params["name"]
        asset = self._assets.files.get(name)
        if version != self._assets.version or asset is None or name.endswith(".html"):
            raise errors.not_found(request.url.path)
        return Response(asset.content, 200, _FOREVER, asset.media_type)

    async def overview(self, request: Request) -> Response:
        """The figures, for an admin's key."""
        self._services.keyring.authenticate_admin(request.headers)
        return await self._figures(request)

    async def overview_for_page(self, request: Request) -> Response:
        """The figures, for the page."""
        self._check_page(request)
        return await self._figures(request)

    async def stream(self, request: Request) -> Response:
        """The figures and their updates, for an admin's key."""
        headers = request.headers
        self._services.keyring.authenticate_admin(headers)

        def is_allowed() -> bool:
            try:
                return self._services.keyring.authenticate_admin(headers).admin
            except ApiError:
                return False

        return self._stream(_window(request), is_allowed)

    async def stream_for_page(self, request: Request) -> Response:
        """The figures and their updates, for the page."""
        self._check_page(request)
        return self._stream(_window(request), lambda: self._is_logged_in(request))

    async def _figures(self, request: Request) -> Response:
        overview = await self._overviews.get(_window(request))
        return Response(overview.body, 200, _FRESH, "application/json")

    def _stream(self, window: Window, is_allowed: Callable[[], bool]) -> Response:
        if self._streams >= MAX_STREAMS:
            raise errors.overloaded()
        return EventSourceResponse(self._events(window, is_allowed), headers=_FRESH)

    async def _events(self, window: Window, is_allowed: Callable[[], bool]) -> AsyncGenerator[ServerSentEvent]:
        """An overview at once, and each one that is newer, until the gateway stops or the session ends."""
        self._streams += 1
        try:
            sent = None
            while is_allowed():
                try:
                    overview = await self._overviews.get(window)
                except ApiError as error:
                    yield ServerSentEvent(error.message, event="trouble")
                else:
                    if overview.computed != sent:
                        yield ServerSentEvent(overview.body, event="overview")
                    sent = overview.computed
                if await self._is_stopping(REFRESH_SECONDS):
                    return
            yield ServerSentEvent("", event="login")
        finally:
            self._streams -= 1

    async def _is_stopping(self, seconds: float) -> bool:
        """Wait so long, or until the gateway stops."""
        try:
            await asyncio.wait_for(self._services.stopping.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _check_page(self, request: Request) -> None:
        """Raise ApiError unless the dashboard's own page asks, in a browser that is logged in."""
        session.check_same_origin(request.headers)
        if not self._is_logged_in(request):
            raise errors.unauthorized("Log in at /dashboard/login, or use GET /v1/overview with an admin key.")

    def _is_logged_in(self, request: Request) -> bool:
        """Whether the request has a valid session. Everybody has one while there are no keys.

        Raises:
            ApiError: 503 if the keys have not been read yet.
        """
        keyring = self._services.keyring
        if not keyring.requires_key:
            return keyring.authenticate(request.headers).admin
        token = request.cookies.get(session.COOKIE, "")
        return session.key_of(token, keyring.keys, time.time()) is not None

    def _html(self, name: str, status: int = 200) -> Response:
        page, _, notice = name.removesuffix(".html").partition("-")
        content = self._assets.page(f"{page}.html").replace(b"{notice}", notice.encode())
        return Response(content, status, _FRESH, assets.TYPES[".html"])


def _window(request: Request) -> Window:
    """How far back the figures go, from the query.

    Raises:
        BadRequestError: the query has another field, or an unknown window.
    """
    try:
        return OverviewQuery.model_validate(dict(request.query_params)).since
    except ValidationError as error:
        raise errors.invalid(cast("list[dict[str, object]]", error.errors(include_url=False))) from None


def _sent_with(secret: str) -> Headers:
    """The headers of a request that is sent with a key.

    Raises:
        ApiError: 401, no header can have it, so it is no key.
    """
    try:
        return Headers({"authorization": f"Bearer {secret}"})
    except UnicodeEncodeError:
        raise errors.unauthorized("This key is not valid.") from None


async def _posted_key(request: Request) -> str:
    """The field `key` of a form.

    Raises:
        ApiError: 413, the form is too long; 408, it did not arrive in time; 400, it is no form.
        ClientDisconnect: the caller has left.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(LOGIN_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_LOGIN_BYTES:
                    raise ApiError(413, "The form is too long for a key.", param="key", code="request_too_large")
    except TimeoutError:
        raise errors.too_slow() from None
    try:
        fields = parse_qs(body.decode(), max_num_fields=10)
    except ValueError:
        raise BadRequestError("The form cannot be read.", "key") from None
    return fields.get("key", [""])[0].strip()
