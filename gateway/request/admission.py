"""May this request come in? A limit on requests in flight and on the size of a body, and the request's id."""

from __future__ import annotations

import asyncio
import secrets

from starlette.requests import Request

from gateway.errors import ApiError, overloaded, too_slow


class Admission:
    """Limits the requests in flight, so that overload is an immediate 429 instead of a growing queue."""

    def __init__(self, max_concurrency: int) -> None:
        self._max = max_concurrency
        self.in_flight = 0

    @property
    def pressure(self) -> float:
        """How near the limit is, in [0, 1]: 0 up to half of it, 1 at the limit."""
        return max(0.0, 2 * self.in_flight / self._max - 1)

    def enter(self) -> None:
        """Count one request in. Every `enter` needs one `leave`.

        Raises:
            ApiError: 429, the limit is reached.
        """
        if self.in_flight >= self._max:
            raise overloaded()
        self.in_flight += 1

    def leave(self) -> None:
        """Count one request out, after its stream has ended."""
        self.in_flight -= 1


def request_id() -> str:
    """A new id. Never the caller's own: the ledger counts each id once, and callers reuse their ids when they retry."""
    return f"req_{secrets.token_hex(16)}"


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The request's body, of at most `limit` bytes.

    Raises:
        ApiError: 413, the body is longer; 408, it has not arrived within `seconds`.
        ClientDisconnect: the caller has left.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise too_slow() from None
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The body is larger than {limit} bytes, the most that this gateway accepts. Send a shorter one.",
        code="request_too_large",
    )
