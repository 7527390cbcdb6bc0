from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines import wire
from gateway.engines.wire import BrokenError, Client, StaleError

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
WHOLE = HEAD + b"content-length: 5\r\n\r\nhello"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[Client]:
    """A client of a server whose wire the test writes."""

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    engine = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
    try:
        yield engine
    finally:
        engine.close()
        server.close()
        await asyncio.sleep(0)


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return head, await reader.readexactly(length)


def always(answer: bytes, seen: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await request_of(reader)
            if seen is not None:
                seen.append(head + body)
            writer.write(answer)
            await writer.drain()

    return serve


async def asked(engine: Client, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await engine.post("/v1/chat", body, {"x-request-id": "req_1"})
    try:
        return answer.status, await answer.read()
    finally:
        answer.close()


@pytest.mark.parametrize("answer", [WHOLE, CHUNKED])
async def test_an_answer_and_another_one_on_the_same_connection(answer: bytes) -> None:
    seen: list[bytes] = []
    connections = 0
    serve = always(answer, seen)

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await serve(reader, writer)

    async with served(counted) as engine:
        for _ in range(3):
            assert await asked(engine, b'{"a": "\xc3\xa9"}') == (200, b"hello")
    assert connections == 1
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"x-request-id: req_1" in head
    assert body == b'{"a": "\xc3\xa9"}'


@given(st.sampled_from([WHOLE, CHUNKED]), st.lists(st.integers(0, len(CHUNKED)), max_size=10))
async def test_however_the_network_cuts_it(answer: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(answer)]

    async def in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for start, end in pairwise(edges):
            writer.write(answer[start:end])
            await writer.drain()
            await asyncio.sleep(0)

    async with served(in_pieces) as engine:
        assert await asked(engine) == (200, b"hello")


async def test_pieces_come_as_they_are_sent() -> None:
    go = asyncio.Event()

    async def two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(CHUNKED[: CHUNKED.index(b"3;x")])
        await go.wait()
        writer.write(CHUNKED[CHUNKED.index(b"3;x") :])
        await writer.drain()

    async with served(two) as engine:
        answer = await engine.post("/", b"", {})
        assert await answer.read_some() == b"he"
        go.set()
        assert await answer.read_some() == b"llo"
        assert await answer.read_some() == b""
        answer.close()


@pytest.mark.parametrize("sent", [b"", HEAD, WHOLE[:-1], CHUNKED[:-4], b"HELLO\r\n\r\n", b"\0" * 100])
async def test_what_ends_too_soon_or_is_not_http_is_broken(sent: bytes) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(sent)
        await writer.drain()

    async with served(end) as engine:
        with pytest.raises(BrokenError) as broken:
            await asked(engine)
        assert not isinstance(broken.value, StaleError)


async def test_a_kept_connection_that_was_closed_meanwhile_is_stale() -> None:
    """And only then: a first request that gets nothing may have been worked on."""
    rounds = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal rounds
        rounds += 1
        await request_of(reader)
        writer.write(WHOLE)
        await writer.drain()
        await request_of(reader)  # and then it is gone

    async with served(once) as engine:
        assert await asked(engine) == (200, b"hello")
        with pytest.raises(StaleError):
            await asked(engine)
        answer = await engine.post("/", b"", {}, fresh=True)
        assert (answer.status, await answer.read()) == (200, b"hello")
        answer.close()
    assert rounds == 2


async def test_old_connections_and_those_that_say_so_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    connections = 0

    def counting(answer: bytes) -> Serve:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal connections
            connections += 1
            await always(answer)(reader, writer)

        return serve

    async with served(counting(HEAD + b"connection: close\r\ncontent-length: 5\r\n\r\nhello")) as engine:
        for _ in range(2):
            assert await asked(engine) == (200, b"hello")
    assert connections == 2
    monkeypatch.setattr(wire, "KEEP_ALIVE_SECONDS", 0.0)
    async with served(counting(WHOLE)) as engine:
        for _ in range(2):
            assert await asked(engine) == (200, b"hello")
    assert connections == 4


async def test_an_answer_that_is_left_ends_its_connection() -> None:
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await writer.drain()
        assert await reader.read() == b""
        left.set()

    async with served(endless) as engine:
        answer = await engine.post("/", b"", {})
        assert await answer.read_some() == b"x"
        answer.close()
        await left.wait()


async def test_what_is_read_ahead_is_bounded() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await request_of(reader)
        writer.write(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
            await writer.drain()
            sent += 65_536

    async with served(flood) as engine:
        answer = await engine.post("/", b"", {})
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 * 2**20
        taken = 0
        while taken <= before:
            taken += len(await answer.read_some())
        answer.close()


async def test_nothing_that_listens_is_told_from_what_is_slow() -> None:
    with pytest.raises(ConnectionRefusedError):
        await Client("http://127.0.0.1:1", 5.0).post("/", b"", {})


async def test_bytes_that_nobody_asked_for_are_not_the_next_answer() -> None:
    async def talkative(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            _, body = await request_of(reader)
            writer.write(WHOLE.replace(b"hello", body))
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.write(WHOLE.replace(b"hello", b"stale"))
            await writer.drain()

    async with served(talkative) as engine:
        for body in (b"12345", b"67890"):
            assert await asked(engine, body) == (200, body)
            await asyncio.sleep(0.05)


async def test_a_connection_whose_last_chunk_is_about_to_end_is_kept_when_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "END_SECONDS", 0.1)
    connections, ends = 0, True

    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await request_of(reader)
            writer.write(CHUNKED[:-5])
            await writer.drain()
            await asyncio.sleep(0.02)
            if ends:
                writer.write(CHUNKED[-5:])

    async with served(late) as engine:
        for _ in range(3):
            answer = await engine.post("/", b"", {})
            assert await answer.read_some() == b"hello"
            answer.close(ending=True)
            await asyncio.sleep(0.05)
        assert connections == 1
        ends = False
        answer = await engine.post("/", b"", {})
        answer.close(ending=True)
        await asyncio.sleep(0.2)
        assert await engine.post("/", b"", {}) is not None
        assert connections == 2


async def test_the_wait_for_an_end_does_not_end_the_next_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "END_SECONDS", 0.05)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(CHUNKED)
        await request_of(reader)
        await asyncio.sleep(0.2)
        writer.write(WHOLE)
        await writer.drain()

    async with served(slow) as engine:
        answer = await engine.post("/", b"", {})
        answer._connection.complete = False  # its last bytes are just not here yet
        answer.close(ending=True)
        answer._connection.on_message_complete()
        assert await asked(engine) == (200, b"hello")


async def test_a_connection_whose_answer_was_not_read_serves_the_next() -> None:
    """It was read ahead until its socket was paused, and then nobody wanted it."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while True:
            await request_of(reader)
            asked += 1
            body = b"x" * (wire.READ_BYTES + 10_000 if asked == 1 else 5)
            writer.write(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body[:60_000])
            await asyncio.sleep(0.1)
            writer.write(body[60_000:])

    async with served(serve) as engine, asyncio.timeout(10):
        first = await engine.post("/", b"", {})
        await asyncio.sleep(0.5)
        first.close()
        second = await engine.post("/", b"", {})
        assert await second.read() == b"xxxxx"
        second.close()
