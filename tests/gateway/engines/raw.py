"""An engine whose every byte a test writes: aiohttp's server is too polite for what is tested with it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gateway.process.embedded import free_port
from models.family import Family

Write = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A complete response."""
    lines = "".join(f"{header}\r\n" for header in (*headers, f"content-length: {len(body)}"))
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


def sends(*pieces: bytes, pause: float = 0.0) -> Write:
    """Write these pieces, one after the other."""

    async def write(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return write


class RawEngine:
    """Answers probes with `models` and chat requests with `chat`, which may write any bytes."""

    def __init__(self, family: Family) -> None:
        ids = [{"id": family.served_name(checkpoint.name)} for checkpoint in family.checkpoints]
        self.good_list = http(json.dumps({"data": ids}).encode())
        self.models: Write = sends(self.good_list)
        self.chat: Write = sends(http(b"{}"))
        self.probes = self.requests = 0
        self.url = ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        await reader.readexactly(int(line[15:]))
                if head.startswith(b"GET"):
                    self.probes += 1
                    await self.models(reader, writer)
                else:
                    self.requests += 1
                    await self.chat(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[RawEngine]:
        running: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            running.add(task)
            try:
                await self._serve(reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                running.discard(task)

        server = await asyncio.start_server(serve, host, port or free_port())
        self.url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in [*running]:
                task.cancel()
            if running:
                await asyncio.wait([*running])
