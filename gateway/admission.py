"""May this request come in? A bound on requests in flight and on the body's size, and the request's id."""

from __future__ import annotations

import uuid

from starlette.requests import Request

from gateway.errors import ApiError, overloaded


class Admission:
    """Bounds what is in flight, so that overload is told to the caller at once instead of growing a queue."""

    def __init__(self, max_concurrency: int) -> None:
        self._max = max_concurrency
        self.in_flight = 0

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
    return f"req_{uuid.uuid4().hex}"


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body, read no further than `limit` bytes.

    Raises:
        ApiError: 413, it is longer.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"The body is larger than the {limit} bytes this gateway takes.", code="request_too_large")
