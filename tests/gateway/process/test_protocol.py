"""When are a response's bytes written to the caller's connection?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import Receive, Scope, Send

from gateway.process.protocol import BatchingProtocol, BatchingTransport
from tests.gateway.prompt_server import PromptServer

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RecordingTransport(asyncio.Transport):
    """A transport that records its calls."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 4711)})
        self.calls: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def is_closing(self) -> bool:
        return "close" in self.calls

    def get_write_buffer_size(self) -> int:
        return 0


def batching() -> tuple[BatchingTransport, RecordingTransport]:
    recorder = RecordingTransport()
    return BatchingTransport(recorder, asyncio.get_running_loop()), recorder


async def test_writes_in_one_loop_iteration_become_one_write() -> None:
    transport, recorder = batching()
    for piece in (b"head ", b"first ", b"second"):
        transport.write(piece)
    assert recorder.calls == []
    await asyncio.sleep(0)
    assert recorder.calls == [b"head first second"]


async def test_writes_in_different_loop_iterations_are_sent_separately() -> None:
    transport, recorder = batching()
    for piece in (b"first", b"second"):
        transport.write(piece)
        await asyncio.sleep(0)
    assert recorder.calls == [b"first", b"second"]


async def test_closing_sends_the_buffered_data_first() -> None:
    transport, recorder = batching()
    transport.write(b"the end")
    transport.close()
    await asyncio.sleep(0)
    assert recorder.calls == [b"the end", "close"]


async def test_nothing_is_written_after_the_caller_left() -> None:
    transport, recorder = batching()
    transport.write(b"too late")
    recorder.close()
    await asyncio.sleep(0)
    assert recorder.calls == ["close"]


async def test_other_calls_go_to_the_wrapped_transport() -> None:
    transport, _ = batching()
    assert transport.get_extra_info("peername") == ("192.0.2.1", 4711)


@asynccontextmanager
async def get_from(
    app: App, version: str = "1.1", *, more: bytes = b"\r\n", later: tuple[asyncio.Event, bytes] | None = None
) -> AsyncIterator[asyncio.StreamReader]:
    """Serve an application, send it one GET, and yield the connection to read from.

    `more` is sent behind the first headers, and `later` as soon as its event is set.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=BatchingProtocol, lifespan="off", log_level="critical")
        server = PromptServer(config)
        serving = asyncio.create_task(server._serve([listener]))  # not `serve`, which takes over signals
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(f"GET / HTTP/{version}\r\nhost: gateway\r\n".encode() + more)

        async def send_later() -> None:
            if later is not None:
                await later[0].wait()
                writer.write(later[1])

        sending = asyncio.create_task(send_later())
        try:
            yield reader
        finally:
            sending.cancel()
            writer.close()
            server.leave()
            await serving


async def test_headers_are_sent_with_the_first_chunk_and_the_terminator_with_the_last() -> None:
    go_on = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with get_from(app) as reader:
        beginning = await reader.read(65_536)
        assert beginning.startswith(b"HTTP/1.1 200 OK\r\n")
        assert beginning.endswith(b"5\r\nfirst\r\n")  # sent at once, without waiting for the rest
        go_on.set()
        assert await reader.read(65_536) == b"4\r\nlast\r\n0\r\n\r\n"


async def test_a_stream_to_an_http_1_0_caller_ends_with_the_connection() -> None:
    """Such a caller does not know chunks."""

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (b"first ", b"second ", b""):
            await send({"type": "http.response.body", "body": body, "more_body": body != b""})

    async with get_from(app, "1.0") as reader:
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"connection: close" in head
        assert b"transfer-encoding" not in head
        assert body == b"first second "


async def test_a_response_of_known_length_is_checked_for_an_http_1_0_caller_as_well() -> None:
    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"whole", "more_body": False})

    async with get_from(app, "1.0") as reader:
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert b"content-length: 5" in head
        assert body == b"whole"
