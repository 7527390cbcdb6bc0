"""What does a connection to an engine take, and what does it give up on? Servers here write every byte by hand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.engines import connection, wire
from gateway.engines.connection import BrokenError
from gateway.engines.wire import Client
from tests.gateway.engines.test_wire import CHUNKED, HEAD, WITH_LENGTH, Serve, ask, client_of, read_request

HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def answering(*pieces: bytes, pause: float = 0.0) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)

    return serve


@pytest.mark.parametrize("response", [WITH_LENGTH, CHUNKED])
@pytest.mark.parametrize("interim", [CONTINUE, HINTS, CONTINUE + HINTS + HINTS])
@pytest.mark.parametrize("pause", [0.0, 0.02])
async def test_interim_responses_are_skipped(response: bytes, interim: bytes, pause: float) -> None:
    async with client_of(answering(interim, response, pause=pause)) as client:
        for _ in range(2):  # and the connection can be used again
            assert await ask(client) == (200, b"hello")


async def test_interim_responses_in_one_piece_with_the_response_are_skipped() -> None:
    async with client_of(answering(CONTINUE + HINTS + CHUNKED)) as client:
        assert await ask(client) == (200, b"hello")


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\nx",
        HEAD + b"content-length: 99999999999999999999999\r\n\r\nx",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\nhello",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
async def test_what_is_no_proper_response_is_broken(sent: bytes) -> None:
    async with client_of(answering(sent)) as client, asyncio.timeout(5):
        with pytest.raises(BrokenError):
            await ask(client)


async def test_a_second_response_to_one_request_is_not_taken_for_its_body() -> None:
    async with client_of(answering(WITH_LENGTH + WITH_LENGTH.replace(b"hello", b"other"))) as client:
        for _ in range(2):
            assert await ask(client) == (200, b"hello")


async def drip(writer: asyncio.StreamWriter, piece: bytes) -> None:
    while True:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0.02)


def dripping(start: bytes, piece: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(start)
        await drip(writer, piece)

    return serve


DRIBBLED_HEADS = {
    "a header": (HEAD + b"x: ", b"y"),
    "headers": (HEAD, b"x: y\r\n"),
    "the status": (b"HTTP/1.1 200 ", b"O"),
}


@pytest.mark.parametrize("seconds", [0.3, None], ids=["a stream", "non-streaming"])
@pytest.mark.parametrize(("start", "piece"), DRIBBLED_HEADS.values(), ids=DRIBBLED_HEADS)
async def test_headers_that_dribble_are_given_up(start: bytes, piece: bytes, seconds: float | None) -> None:
    async with client_of(dripping(start, piece)) as client, asyncio.timeout(5):
        with pytest.raises(TimeoutError, match="in time"):
            await client.post("/", b"", {}, seconds, head_seconds=0.3)


async def test_the_headers_of_a_non_streaming_response_may_take_any_time_to_begin() -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in (CONTINUE, HINTS, WITH_LENGTH):
            await asyncio.sleep(0.4)
            writer.write(piece)

    async with client_of(slow) as client:
        response = await client.post("/", b"", {}, head_seconds=0.2)
        assert await response.read(100, 5.0) == b"hello"
        response.close()


@pytest.mark.parametrize("piece", [b"x" * 20_000, b"x: y\r\n" * 5000], ids=["one header", "many"])
async def test_the_size_of_headers_is_bounded(piece: bytes) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(HEAD + b"x: ")
        while True:
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with client_of(flood) as client, asyncio.timeout(20):
        with pytest.raises(BrokenError, match="too large"):
            await ask(client)
    assert sent < 16 * 2**20  # what fits into the sockets' buffers


async def test_interim_responses_without_end_are_given_up() -> None:
    async with client_of(dripping(b"", HINTS * 100)) as client, asyncio.timeout(10):
        with pytest.raises(BrokenError, match="too large"):
            await ask(client)


DRIBBLED_BODIES = {
    "a body": (HEAD + b"content-length: 100000\r\n\r\n{", b"x"),
    "chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a chunk's length": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n", b"0"),
    "a chunk's extension": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n1;", b"y"),
    "trailers": (HEAD + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"x: y\r\n"),
}


@pytest.mark.parametrize(("start", "piece"), DRIBBLED_BODIES.values(), ids=DRIBBLED_BODIES)
async def test_a_body_that_dribbles_is_given_up(start: bytes, piece: bytes) -> None:
    async with client_of(dripping(start, piece)) as client, asyncio.timeout(5):
        response = await client.post("/", b"", {}, head_seconds=1.0)
        with pytest.raises(TimeoutError):
            await response.read(2**20, 0.3)
        response.close()


@pytest.mark.parametrize("name", ["a chunk's length", "a chunk's extension", "trailers"])
async def test_what_is_no_body_does_not_end_a_streams_silence(name: str) -> None:
    start, piece = DRIBBLED_BODIES[name]
    async with client_of(dripping(start, piece)) as client, asyncio.timeout(5):
        response = await client.post("/", b"", {}, 1.0)
        response.set_read_timeout(0.3)
        assert await response.read_some() == b"x"
        with pytest.raises(TimeoutError):
            await response.read_some()
        response.close()


async def test_white_space_keeps_a_non_streaming_response_waiting() -> None:
    """Some proxies send it so that nobody closes the connection."""
    pieces = [b"1\r\n \r\n"] * 5
    whole = (HEAD + b"transfer-encoding: chunked\r\n\r\n", *pieces, b"5\r\nhello\r\n0\r\n\r\n")
    async with client_of(answering(*whole, pause=0.1)) as client:
        response = await client.post("/", b"", {}, head_seconds=0.3)
        assert (await response.read(100, 0.3)).strip() == b"hello"
        response.close()


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_response_over_the_limit_is_not_read_to_its_end(chunked: bool) -> None:
    sent, gone = 0, asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_request(reader)
        writer.write(
            HEAD + (b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: 9999999999\r\n\r\n")
        )
        try:
            while True:
                writer.write((b"10000\r\n" if chunked else b"") + b"x" * 65_536 + (b"\r\n" if chunked else b""))
                await writer.drain()
                sent += 65_536
        finally:
            gone.set()

    async with client_of(flood) as client, asyncio.timeout(20):
        response = await client.post("/", b"", {})
        with pytest.raises(wire.TooLargeError):
            await response.read(2**20, 5.0)
        response.close()
        await gone.wait()
    assert sent < 32 * 2**20


@contextmanager
def swallowing_connections(port: int) -> Iterator[None]:
    """127.0.0.2 at a port, where a connection is neither accepted nor refused: the listener's backlog is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("127.0.0.2", port))
        try:
            yield
        finally:
            for one in waiting:
                one.close()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""

    async def getaddrinfo(_: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(connection, "_addresses", getaddrinfo)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("first", ["127.0.0.2", "127.0.0.3"], ids=["swallows", "refuses"])
def test_another_address_is_tried_beside_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, new_loop: Any, first: str
) -> None:
    resolve_to(monkeypatch, first, first, "127.0.0.1")

    async def connect() -> float:
        async with client_of(answering(WITH_LENGTH)) as client:
            port = client._address[1]
            with swallowing_connections(port):
                client._address = ("engine", port)
                client._connect_seconds = 2.0
                began = asyncio.get_running_loop().time()
                assert await ask(client) == (200, b"hello")
                return asyncio.get_running_loop().time() - began

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(connect()) < 1.5


async def test_addresses_that_all_swallow_end_with_the_connect_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with swallowing_connections(port):
        async with asyncio.timeout(5):
            with pytest.raises(TimeoutError):
                await Client(f"http://engine:{port}", 0.5).post("/", b"", {})


async def test_addresses_that_all_refuse_are_a_refused_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.3", "127.0.0.4")
    with pytest.raises(ConnectionRefusedError):
        await Client("http://engine:1", 5.0).post("/", b"", {})


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".invalid"])
async def test_a_name_that_has_no_address_is_an_error_of_the_network(host: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        await Client(f"http://{host}:1", 5.0).post("/", b"", {})


def certificate_of(host: str, directory: Path) -> tuple[Path, Path]:
    """A certificate that a host has signed itself, and its key."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={host}", "-addext",
         f"subjectAltName=DNS:{host}", "-days", "1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_the_name_of_an_engine_is_verified_by_its_certificate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    certificate, key = certificate_of("engine", tmp_path)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await read_request(reader)
            writer.write(WITH_LENGTH)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls)
    port = server.sockets[0].getsockname()[1]
    client = Client(f"https://engine:{port}", 5.0)
    assert await ask(client) == (200, b"hello")
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(Client(f"https://other:{port}", 5.0))
    client.close()
    server.close()
