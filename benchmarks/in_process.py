"""How is the gateway driven without a network? The whole application in this process, between two transports that lie.

    connection -> guarded HTTP protocol -> ASGI application -> engine connection -> pieces of `benchmarks.upstream`

Requests enter as bytes through the protocol that `laconic serve` uses, and each piece of the engine's answer arrives
alone, in the next iteration of the event loop. Nothing depends on when a kernel wakes whom, so the same request
takes the same instructions. Redis is real, and so is the upstream that the probes ask what it serves.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import uvicorn
import uvloop
from uvicorn.server import ServerState

from benchmarks.upstream import ANSWER, START, STREAM
from gateway.app import create_app
from gateway.config import Settings, shipped_family
from gateway.engines.connection import Connection
from gateway.process import guarded, server
from gateway.services import Services
from models import family as families
from models import profile as profiles

_ADDRESS = ("127.0.0.1", 1)


class Loop(uvloop.Loop):
    """An event loop on which connections to engines are no connections."""

    async def create_connection(self, protocol_factory: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """An engine that is in this process, for the gateway's own client; for others what they asked for."""
        if protocol_factory is not Connection:
            return await super().create_connection(protocol_factory, *args, **kwargs)
        connection = Connection()
        engine = _Engine(self, connection)
        connection.connection_made(engine)
        return engine, connection


class _Transport(asyncio.Transport):
    """What both sides' transports have in common: they are never full."""

    closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _ADDRESS if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class _Engine(_Transport):
    """An engine that answers each request at once, a stream piece by piece."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection) -> None:
        super().__init__()
        self._loop, self._connection = loop, connection

    def write(self, data: Any) -> None:
        streams = b'"stream":true' in bytes(data)
        self._send([START + STREAM[0], *STREAM[1:], b"0\r\n\r\n"] if streams else [ANSWER])

    def _send(self, pieces: Sequence[bytes]) -> None:
        def piece(at: int) -> None:
            if not self.closing:
                self._connection.data_received(pieces[at])
                if at + 1 < len(pieces):
                    self._loop.call_soon(piece, at + 1)

        self._loop.call_soon(piece, 0)


class _Caller(_Transport):
    """A caller that keeps what it is sent, and notices the response's end."""

    def __init__(self) -> None:
        super().__init__()
        self._received: list[bytes] = []
        self._chunked = False
        self._done: asyncio.Future[None] | None = None

    async def response(self) -> bytes:
        """The whole response to the request that has just been sent."""
        self._received.clear()
        self._done = asyncio.get_running_loop().create_future()
        await self._done
        return b"".join(self._received)

    def write(self, data: Any) -> None:
        if not self._received:
            self._chunked = b"transfer-encoding: chunked" in data
        self._received.append(data)
        # Without chunks, the protocol writes head and body together.
        if (not self._chunked or data.endswith(b"\r\n0\r\n\r\n")) and self._done is not None:
            self._done.set_result(None)
            self._done = None


class Gateway:
    """A gateway in this process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        config = uvicorn.Config(
            create_app(services), http=guarded.protocol(services.settings), ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, proxy_headers=False,
        )  # fmt: skip
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        self._protocol = cast("Any", config.http_protocol_class)(
            config=config, server_state=state, app_state={}, _loop=loop
        )
        self._caller = _Caller()
        self._protocol.connection_made(self._caller)

    async def ask(self, request: bytes) -> bytes:
        """The bytes of the response to the bytes of a request.

        Raises:
            RuntimeError: its status is not 200.
        """
        asyncio.get_running_loop().call_soon(self._protocol.data_received, request)
        response = await self._caller.response()
        if not response.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(response.decode(errors="replace"))
        return response


def collect_rarely() -> None:
    """Set the garbage collector as `gateway.process.server` does; as it is by default, objects cost more among many."""
    gc.collect()
    server.collect_rarely()


@asynccontextmanager
async def running(engines: Sequence[str], redis: str, state_dir: Path) -> AsyncGenerator[Gateway]:
    """The shipped family's gateway with everything on. No holdout, because that is drawn by chance."""
    settings = Settings(engine=list(engines), redis=redis, state_dir=state_dir, holdout_fraction=0.0)
    family = families.load(settings.family, verify=False)
    profile = profiles.load(shipped_family() / family.profile)
    services = Services.create(settings, family, profile)
    await services.start()
    try:
        yield Gateway(services)
    finally:
        await services.aclose()
