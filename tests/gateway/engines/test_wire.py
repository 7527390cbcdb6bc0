"""How does the HTTP/1.1 client for engines read responses and reuse connections?"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines import connection, wire
from gateway.engines.connection import BrokenError, StaleError
from gateway.engines.wire import Client

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
WITH_LENGTH = HEAD + b"content-length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"


@asynccontextmanager
async def client_of(serve: Serve) -> AsyncIterator[Client]:
    """A client of a server whose every byte the test writes."""

    async def serve_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve_quietly, "127.0.0.1", 0)
    client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
    try:
        yield client
    finally:
        client.close()
        server.close()
        await asyncio.sleep(0)


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(length)


def always(response: bytes, requests: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            if requests is not None:
                requests.append(head + body)
            writer.write(response)
            await writer.drain()

    return serve


async def ask(client: Client, body: bytes = b"{}") -> tuple[int, bytes]:
    response = await client.post("/chat", body, {"x-request-id": "req_1"})
    try:
        return response.status, await response.read(2**20, 5.0)
    finally:
        response.close()


@pytest.mark.parametrize("response", [WITH_LENGTH, CHUNKED])
async def test_several_requests_share_one_connection(response: bytes) -> None:
    requests: list[bytes] = []
    connections = 0
    serve = always(response, requests)

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await serve(reader, writer)

    async with client_of(counting) as client:
        for _ in range(3):
            assert await ask(client, b'{"a": "\xc3\xa9"}') == (200, b"hello")
    assert connections == 1
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"x-request-id: req_1" in head
    assert body == b'{"a": "\xc3\xa9"}'


@given(st.sampled_from([WITH_LENGTH, CHUNKED]), st.lists(st.integers(0, len(CHUNKED)), max_size=10))
async def test_a_response_may_arrive_in_any_pieces(response: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(response)]

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for start, end in pairwise(edges):
            writer.write(response[start:end])
            await writer.drain()
            await asyncio.sleep(0)

    async with client_of(in_pieces) as client:
        assert await ask(client) == (200, b"hello")


async def test_pieces_are_returned_as_they_arrive() -> None:
    go = asyncio.Event()

    async def two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED[: CHUNKED.index(b"3;x")])
        await go.wait()
        writer.write(CHUNKED[CHUNKED.index(b"3;x") :])
        await writer.drain()

    async with client_of(two) as client:
        response = await client.post("/", b"", {})
        assert await response.read_some() == b"he"
        go.set()
        assert await response.read_some() == b"llo"
        assert await response.read_some() == b""
        response.close()


@pytest.mark.parametrize("sent", [b"", HEAD, WITH_LENGTH[:-1], CHUNKED[:-4], b"HELLO\r\n\r\n", b"\0" * 100])
async def test_a_truncated_or_non_http_response_is_broken(sent: bytes) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(sent)
        await writer.drain()

    async with client_of(end) as client:
        with pytest.raises(BrokenError) as broken:
            await ask(client)
        assert not isinstance(broken.value, StaleError)


async def test_a_reused_connection_that_the_engine_closed_is_stale() -> None:
    """Only a reused one: a first request without a response may have been processed."""
    rounds = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal rounds
        rounds += 1
        await read_request(reader)
        writer.write(WITH_LENGTH)
        await writer.drain()
        await read_request(reader)  # and then close

    async with client_of(once) as client:
        assert await ask(client) == (200, b"hello")
        with pytest.raises(StaleError):
            await ask(client)
        response = await client.post("/", b"", {}, fresh=True)
        assert (response.status, await response.read(2**20, 5.0)) == (200, b"hello")
        response.close()
    assert rounds == 2


async def test_expired_connections_and_those_with_connection_close_are_not_reused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = 0

    def counting(response: bytes) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await always(response)(reader, writer)

        return serve

    async with client_of(counting(HEAD + b"connection: close\r\ncontent-length: 5\r\n\r\nhello")) as client:
        for _ in range(2):
            assert await ask(client) == (200, b"hello")
    assert connections == 2
    monkeypatch.setattr(wire, "KEEP_ALIVE_SECONDS", 0.0)
    async with client_of(counting(WITH_LENGTH)) as client:
        for _ in range(2):
            assert await ask(client) == (200, b"hello")
    assert connections == 4


async def test_closing_an_unfinished_response_closes_its_connection() -> None:
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        assert await reader.read() == b""
        left.set()

    async with client_of(endless) as client:
        response = await client.post("/", b"", {})
        assert await response.read_some() == b"x"
        response.close()
        await left.wait()


async def test_reading_ahead_of_a_slow_caller_is_bounded() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()
            sent += 65_536

    async with client_of(flood) as client:
        response = await client.post("/", b"", {})
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 * 2**20
        taken = 0
        while taken <= before:
            taken += len(await response.read_some())
        response.close()


async def test_a_refused_connection_raises_connection_refused_not_a_timeout() -> None:
    with pytest.raises(ConnectionRefusedError):
        await Client("http://127.0.0.1:1", 5.0).post("/", b"", {})


async def test_an_engine_is_not_blamed_for_a_gateway_that_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that has no time for the gateway, its timers fire before it reads that the engine has answered."""
    attempts: list[float] = []

    async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> connection.Connection:
        attempts.append(asyncio.get_running_loop().time())
        if len(attempts) == 1:
            time.sleep(0.5)  # noqa: ASYNC251  nothing else runs meanwhile
            await asyncio.sleep(60)
        return await connection.connect(host, port, tls)

    monkeypatch.setattr(wire, "connect", connect)
    async with client_of(always(WITH_LENGTH)) as client:
        client._connect_seconds = 0.3
        response = await client.post("/", b"", {})
        assert await response.read(100, 5.0) == b"hello"
        response.close()
    assert len(attempts) == 2


async def test_an_engine_that_takes_no_connection_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(*_: object) -> connection.Connection:
        await asyncio.sleep(60)
        raise AssertionError("it was not cancelled")

    monkeypatch.setattr(wire, "connect", connect)
    with pytest.raises(TimeoutError):
        await Client("http://127.0.0.1:9", 0.05).post("/", b"", {})


async def test_unsolicited_bytes_are_not_taken_for_the_next_response() -> None:
    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await read_request(reader)
            writer.write(WITH_LENGTH.replace(b"hello", body))
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(WITH_LENGTH.replace(b"hello", b"stale"))
            await writer.drain()

    async with client_of(talkative) as client:
        for body in (b"12345", b"67890"):
            assert await ask(client, body) == (200, body)
            await asyncio.sleep(0.05)


async def test_a_connection_is_reused_once_its_last_chunk_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "END_SECONDS", 0.1)
    connections, ends = 0, True

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_request(reader)
            writer.write(CHUNKED[:-5])
            await writer.drain()
            await asyncio.sleep(0.02)
            if ends:
                writer.write(CHUNKED[-5:])

    async with client_of(late) as client:
        for _ in range(3):
            response = await client.post("/", b"", {})
            assert await response.read_some() == b"hello"
            response.close(ending=True)
            await asyncio.sleep(0.05)
        assert connections == 1
        ends = False
        response = await client.post("/", b"", {})
        response.close(ending=True)
        await asyncio.sleep(0.2)
        assert await client.post("/", b"", {}) is not None
        assert connections == 2


async def test_the_timeout_for_a_last_chunk_does_not_abort_the_next_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "END_SECONDS", 0.05)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(CHUNKED)
        await read_request(reader)
        await asyncio.sleep(0.2)
        writer.write(WITH_LENGTH)
        await writer.drain()

    async with client_of(slow) as client:
        response = await client.post("/", b"", {})
        response._connection.complete = False  # as if its last bytes had not arrived yet
        response.close(ending=True)
        response._connection.on_message_complete()
        assert await ask(client) == (200, b"hello")


async def test_a_connection_with_an_unread_response_can_be_reused() -> None:
    """The client read ahead until it paused the socket, and then the response was closed unread."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        while True:
            await read_request(reader)
            count += 1
            body = b"x" * (connection.READ_BYTES + 10_000 if count == 1 else 5)
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body[:60_000])
            await asyncio.sleep(0.1)
            writer.write(body[60_000:])

    async with client_of(serve) as client, asyncio.timeout(10):
        first = await client.post("/", b"", {})
        await asyncio.sleep(0.5)
        first.close()
        second = await client.post("/", b"", {})
        assert await second.read(2**20, 5.0) == b"xxxxx"
        second.close()
