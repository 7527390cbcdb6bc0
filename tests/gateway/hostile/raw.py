"""Raw connections to a gateway: what a test sends is what arrives, byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from typing import Any

import httpx

HEALTH = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
JSON = b"content-type: application/json\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n" + JSON


@dataclass
class Answer:
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error, which must be in OpenAI's shape and name the request."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        body = json.loads(self.body)
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
        return body["error"]


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", httpx.URL(url).port, limit=2**24)


def hold(url: str, sent: bytes = b"") -> socket.socket:
    """A connection that stays open and sends no more than this."""
    held = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=10)
    held.sendall(sent)
    return held


async def exchange(url: str, *pieces: bytes, seconds: float = 10) -> list[Answer]:
    """All responses on one connection to these bytes, until the gateway ends it."""
    reader, writer = await connect(url)
    try:
        async with asyncio.timeout(seconds):
            try:
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                return answers(await reader.read())
            except ConnectionError:
                return answers(await reader.read())
    finally:
        writer.transport.abort()


def answers(received: bytes) -> list[Answer]:
    """The responses in what arrived. Each has a length."""
    found: list[Answer] = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", "0"))
        found.append(Answer(int(status.split(" ")[1]), headers, rest[:length]))
        received = rest[length:]
    return found
