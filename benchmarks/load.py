"""How fast does a server answer chat requests? Closed or steady load over keep-alive connections.

    python -m benchmarks.load URL --clients 16 --seconds 3 [--stream] [--rate 200] [--key SECRET] [--prompts FILE]

Prints one JSON object. Raw HTTP/1.1 on purpose: any client library costs more than what it would measure here.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop


@dataclass
class Times:
    """Seconds, one value per request or per piece."""

    first: list[float] = field(default_factory=list[float])
    gaps: list[float] = field(default_factory=list[float])
    total: list[float] = field(default_factory=list[float])
    failed: int = 0
    seconds: float = 0.0


class Caller(asyncio.Protocol):
    """One keep-alive connection, one request at a time; it is opened again if the server closed it."""

    def __init__(self, url: str, times: Times, stream: bool, end: bytes = b"[DONE]") -> None:
        """`end` is in the last event of a stream that has not failed."""
        parts = urlsplit(url)
        self._place, self._times, self._stream = (parts.hostname or "", parts.port or 80), times, stream
        self._end = end
        self._buffer = bytearray()
        self._done: asyncio.Future[None] | None = None
        self._began = self._last = 0.0
        self._started = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transport is no subclass

    async def ask(self, request: bytes) -> None:
        self._began = time.perf_counter()
        reused = self.transport is not None and not self.transport.is_closing()
        try:
            await self._ask(request)
        except ConnectionResetError:
            if not reused or self._buffer:
                raise
            await self._ask(request)  # the server closed the idle connection as the request went out

    async def _ask(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        if self.transport is None or self.transport.is_closing():
            await loop.create_connection(lambda: self, *self._place)
        assert self.transport is not None
        self._buffer.clear()
        self._started = False
        self._done = loop.create_future()
        self.transport.write(request)
        await self._done

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._buffer += data
        if self._stream and b"data:" in data:
            if self._started:
                self._times.gaps.append(now - self._last)
            else:
                self._times.first.append(now - self._began)
            self._started, self._last = True, now
        if self._over():
            assert self._done is not None
            if self._done.cancelled():  # nobody waits any more
                return
            if not self._buffer.startswith(b"HTTP/1.1 200") or (self._stream and self._end not in self._buffer):
                self._times.failed += 1
            self._times.total.append(now - self._began)
            self._done.set_result(None)

    def _over(self) -> bool:
        head, mark, body = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return False
        low = head.lower()
        if b"transfer-encoding: chunked" in low:
            return self._buffer.endswith(b"\r\n0\r\n\r\n") or body == b"0\r\n\r\n"
        length = int(low.split(b"content-length:")[1].split(b"\r\n")[0])
        return len(body) >= length

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionResetError("the server closed the connection"))


def requests(url: str, prompts: Sequence[str], *, stream: bool, key: str = "", **more: object) -> list[bytes]:
    """A chat request for each prompt, as bytes."""
    chats = ({"messages": [{"role": "user", "content": prompt}], **more} for prompt in prompts)
    return [post(f"{url}/chat/completions", chat, stream=stream, key=key) for chat in chats]


def post(url: str, asked: Mapping[str, object], *, stream: bool, key: str = "") -> bytes:
    """A request for the model `abacus`, as bytes."""
    parts = urlsplit(url)
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    body = json.dumps({"model": "abacus", **asked, **({"stream": True} if stream else {})}).encode()
    head = f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{auth}content-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def load(
    url: str,
    messages: Sequence[bytes],
    clients: int,
    seconds: float,
    *,
    stream: bool,
    rate: float = 0.0,
    end: bytes = b"[DONE]",
) -> Times:
    """Closed load from `clients` clients; with a `rate`, one request every 1 / rate seconds on any free client."""
    times = Times()
    callers = [Caller(url, times, stream, end) for _ in range(clients)]
    coming = itertools.cycle(messages)
    # The first request of each connection is a warm-up.
    await asyncio.gather(*(caller.ask(next(coming)) for caller in callers))
    times.first.clear()
    times.gaps.clear()
    times.total.clear()
    began = time.perf_counter()

    async def closed(caller: Caller) -> None:
        while time.perf_counter() - began < seconds:
            await caller.ask(next(coming))

    if rate:
        await _steadily(callers, coming, seconds, rate)
    else:
        await asyncio.gather(*map(closed, callers))
    times.seconds = time.perf_counter() - began
    for caller in callers:
        caller.close()
    return times


async def _steadily(callers: Sequence[Caller], coming: Iterator[bytes], seconds: float, rate: float) -> None:
    free: asyncio.Queue[Caller] = asyncio.Queue()
    for caller in callers:
        free.put_nowait(caller)

    async def one(caller: Caller) -> None:
        await caller.ask(next(coming))
        free.put_nowait(caller)

    began, tasks = time.perf_counter(), set[asyncio.Task[None]]()
    for number in range(round(seconds * rate)):
        await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
        tasks.add(asyncio.create_task(one(await free.get())))
    await asyncio.gather(*tasks)


def summary(times: Times) -> dict[str, float]:
    """Requests a second, and quantiles in milliseconds."""
    figures = {"requests": len(times.total), "failed": times.failed, "requests/s": len(times.total) / times.seconds}
    for name, seconds in (("first", times.first), ("gap", times.gaps), ("total", times.total)):
        if seconds:
            p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
            figures |= {f"{name} p50 ms": float(p50), f"{name} p99 ms": float(p99)}
    return figures


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="up to /v1")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second, instead of as fast as they answer")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--key", default="")
    parser.add_argument("--prompts", type=Path, help="a JSON list of questions; none: one question, again and again")
    arguments = parser.parse_args()
    prompts = json.loads(arguments.prompts.read_text()) if arguments.prompts else ["What is 12 + 35 - 8?"]
    messages = requests(arguments.url, prompts, stream=arguments.stream, key=arguments.key)
    print(
        json.dumps(
            summary(
                await load(
                    arguments.url,
                    messages,
                    arguments.clients,
                    arguments.seconds,
                    stream=arguments.stream,
                    rate=arguments.rate,
                )
            )
        )
    )


if __name__ == "__main__":
    uvloop.run(_main())
