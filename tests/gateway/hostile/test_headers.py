"""Callers whose heads are endless, late or malformed, and callers that only hold connections."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.process import guarded
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    COMPLETION,
    EASY,
    EVENTS,
    FakeEngine,
    Gateway,
    forever,
    respond_with,
    running,
    stream,
    until,
)
from tests.gateway.hostile.harness import CHAT
from tests.gateway.hostile.raw import HEALTH, JSON, POST, connect, exchange, hold
from tests.gateway.process.serving import serving

SOON = 30.0
"""Seconds within which an attack that has a deadline of 0.3 must be over, on a busy machine."""


@pytest.fixture
async def gateway(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway that waits 0.3 seconds for whatever a caller has to send."""
    quick = {"head_timeout_seconds": 0.3, "send_timeout_seconds": 0.3, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **quick) as gateway:
        yield gateway


@pytest.fixture
async def unread(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """A gateway that waits 0.3 seconds for a body, whether it is read or not."""
    monkeypatch.setattr(guarded, "UNREAD_SECONDS", 0.3)
    quick = {"send_timeout_seconds": 0.3, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **quick) as gateway:
        yield gateway


CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
LINES = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 400) for number in range(200))
ENDLESS = {
    "one header": b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 70_000,
    "many headers": b"GET / HTTP/1.1\r\nhost: localhost\r\n" + LINES + b"\r\n",
    "many short headers": b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
    "a header's name": b"GET / HTTP/1.1\r\nhost: localhost\r\n" + b"a" * 70_000,
    "the path": b"GET /" + b"a" * 70_000,
    "empty lines": b"\r\n" * 40_000,
    "trailers": CHUNKED + b"2\r\n{}\r\n0\r\n" + LINES,
    "a chunk's extension": CHUNKED + b"2;x=" + b"a" * 70_000,
    "many extensions": CHUNKED + (b"1;x=" + b"a" * 1000 + b"\r\n \r\n") * 120,
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
async def test_a_head_that_is_too_long_is_rejected_with_431(gateway: Gateway, endless: bytes) -> None:
    *_, refused = await exchange(gateway.url, endless)
    assert refused.status == 431
    assert refused.error["code"] == "headers_too_large"
    assert refused.headers["connection"] == "close"
    assert (await gateway.ask(EASY)).status_code == 200


async def test_the_longest_head_that_is_accepted(gateway: Gateway) -> None:
    start, end = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: ", b"\r\n\r\n"
    room = guarded.MAX_HEAD_BYTES - len(start) - len(end)
    (accepted,) = await exchange(gateway.url, start + b"a" * room + end)
    (refused,) = await exchange(gateway.url, start + b"a" * (room + 2) + end)
    assert (accepted.status, refused.status) == (200, 431)


async def test_a_head_may_arrive_byte_by_byte(gateway: Gateway) -> None:
    reader, writer = await connect(gateway.url)
    writer.get_extra_info("socket").setsockopt(6, 1, 1)  # TCP_NODELAY
    for number in range(len(HEALTH)):
        writer.write(HEALTH[number : number + 1])
        await asyncio.sleep(0)
    assert b" 200 " in await reader.readline()
    writer.close()


async def test_a_body_in_chunks_of_one_byte_is_accepted(gateway: Gateway) -> None:
    body = json.dumps({**CHAT, "user": "x" * 20_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    (answered,) = await exchange(
        gateway.url, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    )
    assert answered.status == 200


async def test_trailers_are_no_headers(gateway: Gateway) -> None:
    """A trailer names another budget: it changes nothing."""
    body = json.dumps(CHAT).encode()
    chunk = b"%x\r\n%s\r\n0\r\nx-reasoning-budget: nonsense\r\n\r\n" % (len(body), body)
    (answered,) = await exchange(gateway.url, POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunk)
    assert answered.status == 200


@pytest.mark.parametrize("arrived", [b"G", HEALTH[:-2], b"\r\n", POST[:-1]])
async def test_a_head_that_does_not_end_gets_408(gateway: Gateway, arrived: bytes) -> None:
    (late,) = await exchange(gateway.url, arrived, seconds=SOON)
    assert late.status == 408
    assert late.error["code"] == "request_timeout"


async def test_a_connection_that_says_nothing_is_closed_silently(gateway: Gateway) -> None:
    assert await exchange(gateway.url, seconds=SOON) == []


async def test_an_idle_connection_is_closed(gateway: Gateway) -> None:
    (answered,) = await exchange(gateway.url, HEALTH, seconds=15)
    assert answered.status == 200


async def test_bytes_that_dribble_do_not_move_the_deadline(gateway: Gateway) -> None:
    reader, writer = await connect(gateway.url)
    began = time.monotonic()
    writer.write(b"GET / HTTP/1.1\r\nx: ")
    while not reader.at_eof() and time.monotonic() - began < SOON:
        writer.write(b"a")
        try:
            async with asyncio.timeout(0.05):
                await reader.read(4096)
        except TimeoutError:
            pass
        except ConnectionError:  # it was reset, which is no end of the stream
            break
    assert time.monotonic() - began < SOON
    writer.close()


async def test_the_next_head_on_a_connection_has_a_deadline_too(gateway: Gateway) -> None:
    first, late = await exchange(gateway.url, HEALTH, HEALTH[:-2], seconds=SOON)
    assert (first.status, late.status) == (200, 408)


UNREAD = {
    "an unknown path": b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\n" + JSON,
    "a method without a body": b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n",
    "a path that is not allowed": b"POST /metrics HTTP/1.1\r\nhost: localhost\r\n" + JSON,
    "savings": b"GET /v1/savings HTTP/1.1\r\nhost: localhost\r\n",
    "keys, without a key": b"POST /v1/keys HTTP/1.1\r\nhost: localhost\r\n" + JSON,
    "a foreign page": b"POST /v1/chat/completions HTTP/1.1\r\nhost: evil.example\r\n",
}


@pytest.mark.parametrize("head", UNREAD.values(), ids=UNREAD)
@pytest.mark.parametrize(
    "framing", [b"content-length: 100000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\nffff\r\n"]
)
async def test_a_body_that_nobody_reads_does_not_hold_the_connection(
    unread: Gateway, head: bytes, framing: bytes
) -> None:
    await dribble_until_closed(unread, head + framing)


async def dribble_until_closed(gateway: Gateway, sent: bytes) -> None:
    """Send this, then one byte after another. The gateway answers once, and closes the connection soon."""
    reader, writer = await connect(gateway.url)
    writer.write(sent)
    assert b"HTTP/1.1 " in await reader.readline()  # at once
    began = time.monotonic()
    received = b""
    while not reader.at_eof() and time.monotonic() - began < SOON:
        writer.write(b"a")
        try:
            async with asyncio.timeout(0.05):
                received += await reader.read(4096)
        except TimeoutError:
            pass
        except ConnectionError:  # it was reset, which is no end of the stream
            break
    assert time.monotonic() - began < SOON
    assert b"HTTP/1.1 " not in received  # one response is enough
    writer.close()


@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/route", b"/v1/keys"])
async def test_a_body_that_does_not_end_gets_408_everywhere(unread: Gateway, path: bytes) -> None:
    secret, _ = await keys.create(unread.keyring.redis, Grant(name="boss", admin=True))
    await unread.keyring.refresh()
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n" % (path, secret.encode())
    (late,) = await exchange(unread.url, head + b"content-length: 100\r\n\r\n{", seconds=SOON)
    assert late.status == 408
    assert late.error["code"] == "request_timeout"


async def test_the_rest_of_a_short_unread_body_leaves_the_connection_usable(gateway: Gateway) -> None:
    reader, writer = await connect(gateway.url)
    writer.write(UNREAD["an unknown path"] + b"content-length: 6\r\n\r\n{")
    assert b" 404 " in await reader.readline()
    writer.write(b"     " + HEALTH)
    received = await reader.readuntil(b'{"status":"live"}')
    assert b"HTTP/1.1 200" in received
    writer.close()


MALFORMED = {
    "no request line": b"GARBAGE\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": b"BREW / HTTP/1.1\r\n\r\n",
    "a negative length": POST + b"content-length: -1\r\n\r\n",
    "two lengths": POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}",
    "a length and chunks": POST + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n{}",
    "chunks twice": POST + b"transfer-encoding: chunked, identity\r\n\r\n{}",
    "a chunk's size": POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a huge chunk": POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nhost localhost\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n",
    "no path": b"GET http://localhost HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "a path with bytes beyond ASCII": b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n",
}


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
async def test_what_cannot_be_parsed_gets_a_400_in_the_usual_shape(gateway: Gateway, malformed: bytes) -> None:
    (refused,) = await exchange(gateway.url, malformed, seconds=SOON)
    assert refused.status == 400
    assert refused.error["code"] == "malformed_request"
    assert refused.headers["connection"] == "close"


async def test_a_fault_behind_a_request_is_answered_after_it(gateway: Gateway) -> None:
    body = json.dumps(CHAT).encode()
    ask = POST + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    first, second, refused = await exchange(gateway.url, ask + ask + b"GARBAGE\r\n\r\n")
    assert (first.status, second.status, refused.status) == (200, 200, 400)
    assert json.loads(first.body)["choices"]
    assert refused.error["code"] == "malformed_request"


UPGRADES = [b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n",
            b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: eA==\r\n",
            b"connection: upgrade\r\nupgrade: nonsense\r\n"]  # fmt: skip


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket", "nonsense"])
async def test_a_request_for_another_protocol_is_answered_in_this_one(gateway: Gateway, upgrade: bytes) -> None:
    body = json.dumps(CHAT).encode()
    ask = POST + upgrade + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    get = HEALTH.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n")
    last = HEALTH.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    received = await exchange(gateway.url, get + ask + get + last, seconds=SOON)
    assert [answer.status for answer in received] == [200, 200, 200, 200]
    assert json.loads(received[1].body)["choices"]


async def test_too_many_pipelined_requests_are_not_kept(gateway: Gateway) -> None:
    received = await exchange(gateway.url, HEALTH * 5000)
    assert {answer.status for answer in received[:-1]} == {200}
    assert len(received) < 100
    assert received[-1].status == 429


@pytest.mark.parametrize(
    "sent", [b"", HEALTH[:-2], POST + b"content-length: 100\r\n\r\n{"], ids=["idle", "head", "body"]
)
async def test_connections_that_only_wait_make_room_for_others(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, sent: bytes
) -> None:
    bounds = {"max_connections_per_address": 20, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **bounds) as gateway:
        assert (await gateway.ask(EASY)).status_code == 200
        held = []
        for _ in range(60):
            held.append(await asyncio.to_thread(hold, gateway.url, sent))
            await asyncio.sleep(0)
        for _ in range(30):
            assert [answer.status for answer in await exchange(gateway.url, HEALTH + b"GARBAGE\r\n\r\n")] == [200, 400]
        assert (await gateway.ask(EASY)).status_code == 200
        for one in held:
            one.close()


async def test_a_connection_between_requests_outlives_one_that_never_sent_any(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    bounds = {"max_connections_per_address": 5, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **bounds) as gateway:
        reader, writer = await connect(gateway.url)
        writer.write(HEALTH)
        await reader.readuntil(b'{"status":"live"}')
        held = [await asyncio.to_thread(hold, gateway.url) for _ in range(30)]
        writer.write(HEALTH)
        await reader.readuntil(b'{"status":"live"}')
        writer.close()
        for one in held:
            one.close()


async def test_a_connection_is_refused_if_all_others_are_being_answered(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    body = json.dumps({**CHAT, "stream": True}).encode()
    ask = POST + b"content-length: %d\r\n\r\n%s" % (len(body), body)
    bounds = {"max_connections_per_address": 3, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **bounds) as gateway:
        busy = [await asyncio.to_thread(hold, gateway.url, ask) for _ in range(3)]
        await until(lambda: engine.running == 3)
        (refused,) = await exchange(gateway.url, HEALTH)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.error["code"] == "too_many_connections"
        assert engine.running == 3  # nobody who is being answered had to go
        for one in busy:
            one.close()
        await engine.idle.wait()
        served, _ = await exchange(gateway.url, HEALTH + b"GARBAGE\r\n\r\n")
        assert served.status == 200


async def test_a_caller_that_does_not_read_its_answer_is_disconnected(gateway: Gateway, engine: FakeEngine) -> None:
    """No stream: the answer is complete, and only the connection holds it."""
    engine.script = respond_with(200, {**COMPLETION, "padding": "x" * 8_000_000})
    body = json.dumps(CHAT).encode()
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.to_thread(caller.connect, ("127.0.0.1", httpx.URL(gateway.url).port))
        caller.sendall(POST + b"content-length: %d\r\n\r\n%s" % (len(body), body))
        async with asyncio.timeout(SOON):
            await until(lambda: not open_connections(caller.getsockname()))


def open_connections(peer: tuple[str, int]) -> list[object]:
    """This process's connections to a peer that are not closed yet."""
    connections = psutil.Process().net_connections()
    return [one for one in connections if one.raddr == peer and one.status == "ESTABLISHED"]


async def test_a_closed_connection_leaves_no_garbage(gateway: Gateway) -> None:
    """The collector runs rarely, so what a connection leaves must go without it."""
    gc.collect()
    gc.disable()
    try:
        before = connections_in_memory()
        for sent in (HEALTH, b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 40_000, HEALTH[:-2]):
            for _ in range(20):
                await asyncio.to_thread(lambda sent=sent: hold(gateway.url, sent).close())
        await until(lambda: connections_in_memory() <= before + 1)
    finally:
        gc.enable()


def connections_in_memory() -> int:
    # by `type`: `isinstance` would ask every object for its class, and torch's deprecated ones warn
    return sum(issubclass(type(one), guarded.GuardedProtocol) for one in gc.get_objects())


async def test_400_megabytes_of_headers_leave_nothing_behind(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url) as serve:
        for _ in range(20):
            assert (await serve.ask()).status_code == 200
        process = psutil.Process(serve.process.pid)
        before = process.memory_info().rss
        for start in (b"", b"x: "):  # many headers, then one
            reader, writer = await connect(serve.url)
            writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\n" + start)
            answered = asyncio.create_task(reader.readline())
            line = (b"a" if start else b"x: " + b"a" * 1000 + b"\r\n") * 65_536
            try:
                for _ in range(400_000_000 // len(line)):
                    writer.write(line)
                    await writer.drain()
            except ConnectionError:
                pass
            assert b" 431 " in await answered
            writer.transport.abort()
            assert process.memory_info().rss < 1.2 * before
        assert (await serve.ask()).status_code == 200
