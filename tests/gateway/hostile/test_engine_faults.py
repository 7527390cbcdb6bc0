"""Faults of engines: what the caller sees, what the ledger says, and that nothing leaks.

Faults that a real component can be made to have are tested in tests/end_to_end, too.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import (
    COMPLETION,
    EVENTS,
    WITHOUT_USAGE,
    FakeEngine,
    Gateway,
    Script,
    answer,
    die,
    forever,
    respond_with,
    silent,
    stream,
)
from tests.gateway.hostile.harness import CHAT, assert_nothing_is_left


@pytest.fixture
def gateway(impatient: Gateway) -> Gateway:
    return impatient


async def reset(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """A TCP reset instead of an answer."""
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.transport.abort()
    return await silent(request, _)


def byte_by_byte(*pieces: bytes) -> Script:
    return stream(*(bytes([byte]) for piece in pieces for byte in piece))


def endless(*start: bytes) -> Script:
    async def script(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in start:
            await response.write(piece)
        while True:
            await response.write(b"x" * 65_536)

    return script


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    script: Script
    streamed: bool
    status: int
    """What the caller gets, and the ledger where `entry` is not set."""
    code: str | None = None
    """Of the error, in the body or in the stream's last event."""
    entry: int | None = None
    error: str = ""
    reasoning: Callable[[int], bool] = lambda tokens: tokens == 0


def positive(tokens: int) -> bool:
    return tokens > 0


HALF = EVENTS[1][: len(EVENTS[1]) // 2]
GONE, FAILED, BROKEN = "engine_unavailable", "engine_failed", "engine failed mid-stream"
TABLE = [
    Fault("reset", reset, True, 503, GONE, error=GONE),
    Fault("reset, non-streaming", reset, False, 503, GONE, error=GONE),
    Fault("500", respond_with(500, {"error": {"message": "boom"}}), True, 503, GONE, error=GONE),
    Fault("500 that is no JSON", respond_with(500, "boom"), False, 503, GONE, error=GONE),
    Fault("429", respond_with(429, {"error": {"message": "busy"}}), True, 429, "overloaded", error="overloaded"),
    Fault("silent before the first token", silent, True, 503, GONE, error=GONE),
    Fault("silent after it", stream(*EVENTS[:2], then=forever), True, 200, "engine_failed", 502, BROKEN, positive),
    Fault("dies after it", stream(*EVENTS[:2], then=die), True, 200, "engine_failed", 502, BROKEN, positive),
    Fault("closes after it", stream(*EVENTS[:2]), True, 200, "engine_failed", 502, BROKEN, positive),
    Fault("half a line, and dies", stream(EVENTS[0], HALF, then=die), True, 200, "engine_failed", 502, BROKEN),
    Fault("half a line, and closes", stream(*EVENTS[:2], HALF), True, 200, "engine_failed", 502, BROKEN, positive),
    Fault("an error event", stream(EVENTS[0], b'data: {"error": {"message": "oom", "code": 500}}\n\n'), True, 200,
          "engine_failed", 502, BROKEN),
    Fault("garbage for events", stream(b"data: {]\n\n", b"\xff\xfe\n\n"), True, 502, FAILED, error=FAILED),
    Fault("garbage after an event", stream(EVENTS[0], b"data: {]\n\n", b"\xff\xfe\n\n"), True, 200, FAILED, 502,
          BROKEN),
    Fault("an event without end", endless(EVENTS[0], b'data: {"choices": "'), True, 200, "engine_failed", 502, BROKEN),
    Fault("all in one piece, and dies", stream(b"".join(EVENTS), then=die), True, 200, reasoning=positive),
    Fault("all in one piece, and hangs", stream(b"".join(EVENTS), then=forever), True, 200, reasoning=positive),
    Fault("an error in the first piece, and dies", stream(EVENTS[0] + b'data: {"error": {"message": "oom"}}\n\n',
          then=die), True, 200, "engine_failed", 502, BROKEN),
    Fault("no usage", stream(*WITHOUT_USAGE), True, 200, reasoning=positive),
    Fault("no [DONE]", stream(*EVENTS[:-1]), True, 200, reasoning=positive),
    Fault("byte by byte, characters torn", byte_by_byte(*EVENTS), True, 200, reasoning=positive),
    Fault("an empty stream", stream(), True, 503, GONE, error=GONE),
    Fault("response that is no JSON", lambda *_: _text("{"), False, 502, FAILED, error=FAILED),
    Fault("response without choices", lambda *_: _text("{}"), False, 502, FAILED, error=FAILED),
    Fault("response without usage", lambda *_: _text(json.dumps({**COMPLETION, "usage": None})), False, 200,
          reasoning=positive),
]  # fmt: skip


async def _text(text: str) -> web.StreamResponse:
    return web.Response(text=text, content_type="application/json")


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: fault.name)
async def test_an_engine_fault(gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, fault: Fault) -> None:
    engine.script = fault.script
    pinned = {"model": "abacus/alpha-0.4"}  # or a neighbour would be asked, which is another test
    response = await gateway.client.post("/v1/chat/completions", json={**CHAT, **pinned, "stream": fault.streamed})
    assert response.status_code == fault.status
    if response.status_code == 200 and fault.streamed:
        last = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")][-1]
        assert (json.loads(last)["error"]["code"] if fault.code else last) == (fault.code or "[DONE]")
    elif fault.code is not None:
        assert response.json()["error"]["code"] == fault.code
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (fault.entry or fault.status, fault.error)
    assert fault.reasoning(entry.reasoning_tokens), entry.reasoning_tokens
    await assert_nothing_is_left(gateway, engine, redis_server)
    assert redis_state(redis_server)["day_tokens"] == entry.reasoning_tokens

    engine.script = answer  # and the gateway serves on
    assert (await gateway.client.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("script", [respond_with(500, {}), reset, silent], ids=["500", "reset", "silent"])
async def test_a_neighbour_answers_if_the_engine_fails_before_the_first_byte(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, script: Script
) -> None:
    async def only_others(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (script if body["model"] == "abacus/alpha-0.4" else answer)(request, body)

    engine.script = only_others
    response = await gateway.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert (response.status_code, response.headers["x-laconic-decision"]) == (200, "fallback")
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.1"
    (entry,) = await gateway.entries()
    assert (entry.status, entry.decision, entry.choice) == (200, "fallback", "alpha-0.4")
    await assert_nothing_is_left(gateway, engine, redis_server)
