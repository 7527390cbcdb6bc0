"""What goes over a caller's connection, and when."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.process.protocol import BatchingProtocol, BatchingTransport

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Recorded(asyncio.Transport):
    """A transport that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.told: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told


def gathering() -> tuple[BatchingTransport, Recorded]:
    recorded = Recorded()
    return BatchingTransport(recorded, asyncio.get_running_loop()), recorded


async def test_what_is_written_in_one_turn_of_the_loop_is_one_write() -> None:
    transport, recorded = gathering()
    for piece in (b"head ", b"first ", b"second"):
        transport.write(piece)
    assert recorded.told == []
    await asyncio.sleep(0)
    assert recorded.told == [b"head first second"]


async def test_what_is_written_in_different_turns_is_sent_in_each() -> None:
    transport, recorded = gathering()
    for piece in (b"first", b"second"):
        transport.write(piece)
        await asyncio.sleep(0)
    assert recorded.told == [b"first", b"second"]


async def test_closing_sends_what_is_gathered_first() -> None:
    transport, recorded = gathering()
    transport.write(b"the end")
    transport.close()
    await asyncio.sleep(0)
    assert recorded.told == [b"the end", "close"]


async def test_nothing_is_written_to_a_caller_that_has_left_meanwhile() -> None:
    transport, recorded = gathering()
    transport.write(b"too late")
    recorded.close()
    await asyncio.sleep(0)
    assert recorded.told == ["close"]


async def test_all_else_is_the_transports() -> None:
    transport, _ = gathering()
    assert transport.get_extra_info("peername") == ("192.0.2.1", 4711)


@asynccontextmanager
async def asked(app: App) -> AsyncIterator[asyncio.StreamReader]:
    """The connection on which a server with this application answers one GET."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=BatchingProtocol, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server._serve([listener]))  # not `serve`, which takes over signals
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(b"GET / HTTP/1.1\r\nhost: gateway\r\n\r\n")
        try:
            yield reader
        finally:
            writer.close()
            server.should_exit = True
            await serving


async def test_headers_come_together_with_the_first_piece_and_the_last_with_the_end() -> None:
    go_on = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with asked(app) as reader:
        beginning = await reader.read(65_536)
        assert beginning.startswith(b"HTTP/1.1 200 OK\r\n")
        assert beginning.endswith(b"5\r\nfirst\r\n")  # before the rest: it does not wait for that
        go_on.set()
        assert await reader.read(65_536) == b"4\r\nlast\r\n0\r\n\r\n"
