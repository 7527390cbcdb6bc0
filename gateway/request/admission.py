"""May this request come in? A bound on requests in flight and on the body's size, and the request's id."""

from __future__ import annotations

import asyncio
import secrets

from starlette.requests import Request

from gateway.errors import ApiError, overloaded, too_slow


class Admission:
    """Bounds what is in flight, so that overload is told to the caller at once instead of growing a queue."""

    def __init__(self, max_concurrency: int) -> None:
        self._max = max_concurrency
        self.in_flight = 0

    @property
    def pressure(self) -> float:
        """How near the bound is, in [0, 1]: 0 up to half of it."""
        return max(0.0, 2 * self.in_flight / self._max - 1)

    def enter(self) -> None:
        """Let one request in; every `enter` is followed by one `leave`.

        Raises:
            ApiError: 429, as many are in flight as may be.
        """
        if self.in_flight >= self._max:
            raise overloaded()
        self.in_flight += 1

    def leave(self) -> None:
        """One request is over, its stream included."""
        self.in_flight -= 1


def request_id() -> str:
    """A new id. Never the caller's own: the ledger counts each id once, and callers reuse theirs when they retry."""
    return f"req_{secrets.token_hex(16)}"


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body, read no further than `limit` bytes.

    Raises:
        ApiError: 413, it is longer; 408, it has not come within so many seconds.
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
    return ApiError(413, f"The body is larger than the {limit} bytes this gateway takes.", code="request_too_large")
