"""May this request come in? Bounds on bodies that are being read and on requests in flight, shared fairly by the keys.

    authenticate -> read the body -> enter -> reserve the key's limits -> route

A request takes a slot when its body has arrived, so callers that send slowly take none. Slots and the memory for bodies
are shared by a dynamic threshold (Choudhury and Hahne, 1998; docs/decisions/0029-fair-shares.md).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from starlette.requests import Request

from gateway import errors
from gateway.errors import ApiError
from gateway.request.caller import CONNECTION, Connection

SHARE = 7
"""A key may hold this many times what is free: alone, 7/8 of all."""
BODIES_BYTES = 64 * 2**20
"""Memory for bodies that are being read, unless `max_body_bytes` is so large that eight bodies need more."""

MOST_READ_AWAY, MOST_READ_AWAY_SECONDS = 64 * 2**20, 10.0
"""How much of a body that is too long is read before the response, and for how long."""

PARSED_BYTES = 512 * 2**20
"""Memory for the parsed bodies of requests in flight: 256 bodies of a mebibyte of prose, or 14 of empty objects."""


@dataclass(frozen=True)
class Tenant:
    """Whose request it is, as far as sharing goes."""

    name: str
    shares: bool = False
    """Whether there are others. A gateway without keys, or with one, gives its only tenant everything."""
    max_concurrency: int | None = None
    """The key's own limit."""


class Shares:
    """Something that there is only so much of, such as slots, and how much of it each tenant holds."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: dict[str, int] = {}
        self.used = 0

    def held(self, tenant: Tenant) -> int:
        """How much this tenant holds."""
        return self._held.get(tenant.name, 0)

    def take(self, tenant: Tenant, amount: int = 1) -> bool:
        """Whether the tenant gets this much more.

        Among several, a tenant gets more only while it holds less than `SHARE` times what is free. So one busy tenant
        always leaves some for the others, and when all is taken, what becomes free goes to those that hold least.
        """
        if not self.has_room(tenant, amount):
            return False
        self.used += amount
        self._held[tenant.name] = self.held(tenant) + amount
        return True

    def has_room(self, tenant: Tenant, amount: int) -> bool:
        """Whether `take` would succeed."""
        free, held = self._capacity - self.used, self.held(tenant)
        if amount > free:
            return False
        if not (tenant.shares and held):
            return True
        keeps_the_last = self._capacity <= SHARE and amount == free  # an eighth of so few is less than one
        return not (held >= SHARE * free or keeps_the_last)

    def give_back(self, tenant: Tenant, amount: int = 1) -> None:
        """The tenant does not need this much any more."""
        self.used -= amount
        if rest := self.held(tenant) - amount:
            self._held[tenant.name] = rest
        else:
            self._held.pop(tenant.name, None)


class Admission:
    """Limits the requests in flight, so that overload is an immediate 429 instead of a growing queue."""

    def __init__(self, max_concurrency: int, max_body_bytes: int = 2**20) -> None:
        self._max, self._max_body_bytes = max_concurrency, max_body_bytes
        self._slots = Shares(max_concurrency)
        self._bodies = Shares(max(BODIES_BYTES, 8 * max_body_bytes))
        self._parsed = Shares(max(PARSED_BYTES, 512 * max_body_bytes))

    @property
    def in_flight(self) -> int:
        """The requests that have a slot."""
        return self._slots.used

    @property
    def pressure(self) -> float:
        """How near the limit is, in [0, 1]: 0 up to half of it, 1 at the limit."""
        return max(0.0, 2 * self.in_flight / self._max - 1)

    def enter(self, tenant: Tenant, memory: int = 0) -> None:
        """Count one request in, whose body takes this much memory. Every `enter` needs one `leave`.

        Raises:
            ApiError: 429, the gateway's limit is reached, or the tenant's own, or its share.
        """
        most = tenant.max_concurrency
        if most is not None and self._slots.held(tenant) >= most:
            raise errors.concurrency_exceeded(tenant.name, most)
        if not self._slots.take(tenant):
            raise errors.overloaded()
        if not self._parsed.take(tenant, memory):
            self._slots.give_back(tenant)
            raise errors.overloaded()

    def leave(self, tenant: Tenant, memory: int = 0) -> None:
        """Count one request out, after its stream has ended."""
        self._slots.give_back(tenant)
        self._parsed.give_back(tenant, memory)

    async def read_body(self, request: Request, tenant: Tenant, seconds: float) -> bytes:
        """The request's body.

        Raises:
            ApiError: 413, the body is too long; 415, it is compressed; 408, it has not arrived within `seconds`; 429,
                all the memory for bodies is in use, or the tenant's share of it.
            ClientDisconnect: the caller has left.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise _compressed(encoding)
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_body_bytes:
            await _read_away(request, seconds)
            raise _too_large(self._max_body_bytes)
        connection: Connection = request.scope[CONNECTION]
        if (whole := connection.whole_body()) is None:
            return await self._read_pieces(request, tenant, seconds)
        # As most are: nothing is waited for.
        if not self._bodies.has_room(tenant, len(whole)):
            raise errors.overloaded()
        if len(whole) > self._max_body_bytes:
            raise _too_large(self._max_body_bytes)
        return whole

    async def _read_pieces(self, request: Request, tenant: Tenant, seconds: float) -> bytes:
        body = bytearray()
        with self._held_until_read(tenant, body):
            try:
                async with asyncio.timeout(seconds):
                    async for chunk in request.stream():
                        if not self._bodies.take(tenant, len(chunk)):
                            raise errors.overloaded()
                        body += chunk
                        if len(body) > self._max_body_bytes:
                            break
            except TimeoutError:
                raise errors.too_slow() from None
            if len(body) <= self._max_body_bytes:
                return bytes(body)
        await _read_away(request, seconds)
        raise _too_large(self._max_body_bytes)

    @contextmanager
    def _held_until_read(self, tenant: Tenant, body: bytearray) -> Generator[None]:
        try:
            yield
        finally:
            self._bodies.give_back(tenant, len(body))


def request_id() -> str:
    """A new id. Never the caller's own: the ledger counts each id once, and callers reuse their ids when they retry."""
    return f"req_{secrets.token_hex(16)}"


async def _read_away(request: Request, seconds: float) -> None:
    """Read on and keep nothing: many clients read no response before their body is sent."""
    read = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(min(seconds, MOST_READ_AWAY_SECONDS)):
            while read < MOST_READ_AWAY:
                message = await request.receive()
                read += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return


def _too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        f"The body is larger than {limit} bytes, the most that this gateway accepts. Send a shorter one, or ask its"
        " operator to raise --max-body-bytes.",
        code="request_too_large",
    )


def _compressed(encoding: str) -> ApiError:
    return ApiError(
        415,
        f"Content-Encoding: this gateway reads no compressed bodies, but this one is {encoding[:40]!r}.",
        param="Content-Encoding",
        code="unsupported_encoding",
    )
