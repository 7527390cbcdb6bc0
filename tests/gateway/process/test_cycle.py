"""How is one request read, and its response written? The rest is in test_protocol.py and test_guarded.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from gateway.request.caller import CONNECTION
from tests.gateway.process.test_protocol import get_from

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


async def answer(send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"ok", "more_body": False})


async def test_whoever_asks_is_called_once_when_the_caller_leaves() -> None:
    calls, listening, left = list[str](), asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        scope[CONNECTION].on_left(lambda: (calls.append("left"), left.set()))
        listening.set()
        await left.wait()
        scope[CONNECTION].on_left(lambda: calls.append("had left"))

    async with get_from(app):
        await listening.wait()
        assert calls == []
    await asyncio.wait_for(left.wait(), 10)
    assert calls == ["left", "had left"]


async def test_nobody_is_called_after_the_response() -> None:
    calls = list[str]()

    async def app(scope: Scope, _: Receive, send: Send) -> None:
        scope[CONNECTION].on_left(lambda: calls.append("left"))
        await answer(send)

    async with get_from(app) as reader:
        assert (await reader.read(65_536)).endswith(b"ok")
    assert calls == []


async def test_a_body_that_has_arrived_is_there_without_waiting() -> None:
    bodies = list[Any]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bodies.append(scope[CONNECTION].whole_body())
        if bodies[0] is None:
            bodies.append((await receive())["body"])
        await answer(send)

    async with get_from(app, more=b"content-length: 4\r\n\r\nbody") as reader:
        await reader.read(65_536)
    assert bodies == [b"body"]
    bodies.clear()
    go_on = asyncio.Event()
    async with get_from(app, more=b"content-length: 4\r\n\r\nbo", later=(go_on, b"dy")) as reader:
        while not bodies:
            await asyncio.sleep(0.01)
        go_on.set()
        await reader.read(65_536)
    assert bodies[0] is None, "half of it"


@pytest.mark.parametrize("header", [(b"x-a", b"1\r\nx-b: 2"), (b"x a", b"1"), (b"x-a\r\n", b"1")])
async def test_a_header_that_would_break_the_head_is_not_sent(header: tuple[bytes, bytes]) -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    async with get_from(app) as reader:
        assert (await reader.read(65_536)).startswith(b"HTTP/1.1 500 ")
