"""How do bytes get to an engine and back? A minimal HTTP/1.1 client for the hot path, on httptools' parser.

All requests to engines look alike: a POST with a body, and a response that is chunked or has a length. A general client
costs twice as much per request (docs/decisions/0024-hot-path.md), so only this path has its own; everything else here
that speaks HTTP uses aiohttp. Neither vLLM nor the proxies in front of it need redirects, compression, trailers,
cookies, proxy settings, or responses that end with their connection, so none of these is supported.

`gateway.engines.connection` has one connection with its parser; here are requests, responses and the pool.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.engines import verdict
from gateway.engines.connection import Connection, connect
from gateway.engines.credentials import Credentials
from models import endpoint

KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which vLLM closes an idle connection, so that no request is sent on a dying connection."""
LATE = 1.25
"""A timer that fires after so many times its seconds is late."""
END_SECONDS = 1.0
"""How long a closed response may take to receive its final bytes before its connection is aborted."""


class TooLargeError(ConnectionError):
    """The response's body is larger than allowed."""


class Client:
    """Sends requests to one engine over a pool of keep-alive connections."""

    def __init__(self, url: str, connect_seconds: float, credentials: Credentials | None = None) -> None:
        """`credentials` are sent with every request, and say which certificates to trust."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._url, self._credentials = url, credentials or Credentials()
        self._tls = self._credentials.context() if parts.scheme == "https" else None
        self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._path = urlsplit(endpoint.api(url)).path
        self._head = f" HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n"
        self._connect_seconds = connect_seconds
        self._idle: deque[Connection] = deque()
        self._busy: set[Connection] = set()

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How connections are encrypted; None if they are not."""
        return self._tls

    def reload_tls(self) -> None:
        """Read the certificate authorities again, for new connections. Idle ones are closed, running requests go on."""
        if self._tls is not None:
            self._tls = self._credentials.context()
            while self._idle:
                self._idle.popleft().abort()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float | None = None,
        *,
        head_seconds: float | None = None,
        fresh: bool = False,
    ) -> Response:
        """Send a request and return the response once its headers have arrived; its body is still to be read.

        Args:
            seconds: in how many seconds everything must arrive, until `set_read_timeout` changes it; None for no limit.
            head_seconds: without that limit, in how many seconds the headers must be complete once they have begun.
            fresh: whether to open a new connection instead of reusing an idle one.

        Raises:
            TimeoutError, OSError: connecting failed, or the connection ended before the response began.
        """
        connection = (None if fresh else self._take_idle()) or await self._connect()
        sent = {**headers, **self._credentials.headers(self._url)}
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        head = f"POST {self._path}{path}{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        connection.set_deadline(seconds)
        self._busy.add(connection)
        try:
            await connection.send(head.encode("latin-1") + body, head_seconds)
        except BaseException:  # including cancellation: nobody waits for the response any more
            self.remove(connection)
            connection.abort()
            raise
        return Response(self, connection)

    def begin_outage(self, seconds: float) -> None:
        """Let every running request that has no time limit yet end within `seconds`, unless the outage ends before."""
        for connection in self._busy:
            connection.begin_outage(seconds)

    def end_outage(self) -> None:
        """Give every running request as much time again as it had before the outage."""
        for connection in self._busy:
            connection.end_outage()

    def remove(self, connection: Connection) -> None:
        """Take a connection off the list of busy ones: nobody waits for it."""
        self._busy.discard(connection)
        connection.set_deadline(None)

    def release(self, connection: Connection) -> None:
        """Return a connection to the pool: its response is complete, so it can be reused."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().abort()

    def _take_idle(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the most recently used, so that the others can expire
            if connection.alive and now - connection.idle_since < KEEP_ALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await self._try_to_connect()
        except TimeoutError:
            # A timer that fires late says that this process did not run for a while, and nothing of the engine.
            if loop.time() - began < LATE * self._connect_seconds:
                raise
        return await self._try_to_connect()

    async def _try_to_connect(self) -> Connection:
        host, port = self._address
        async with asyncio.timeout(self._connect_seconds):
            return await connect(host, port, self._tls)


class Response:
    """An engine's response while it arrives. Always `close` it."""

    def __init__(self, client: Client, connection: Connection) -> None:
        self._client, self._connection = client, connection
        self.status = connection.status

    @property
    def retry_after(self) -> int | None:
        """The seconds that the response's headers ask to wait."""
        return verdict.retry_after(self._connection.head)

    def set_read_timeout(self, seconds: float) -> None:
        """Set how long the engine may send nothing of the body from now on."""
        self._connection.set_read_timeout(seconds)

    def set_deadline(self, seconds: float) -> None:
        """Set in how many seconds from now the whole response must have arrived."""
        self._connection.set_deadline(seconds)

    async def read_some(self) -> bytes:
        """Return the bytes received since the last call, waiting for at least one; b"" at the end.

        Raises:
            BrokenError: the connection ended before the response did.
            TimeoutError: nothing arrived within the read timeout.
        """
        return await self._connection.read_some()

    async def read(self, max_bytes: int, seconds: float) -> bytes:
        """Return the whole body.

        Args:
            seconds: how long it may take once something other than white space has arrived, if nothing limits it yet.

        Raises:
            TooLargeError: it has more than `max_bytes`.
            BrokenError, TimeoutError: as `read_some` raises them.
        """
        body = bytearray()  # not a list of pieces: the memory of one large block is given back to the system
        while piece := await self.read_some():
            body += piece
            if len(body) > max_bytes:
                body.clear()  # the exception's traceback keeps this frame
                raise TooLargeError(f"a response of more than {max_bytes} bytes")
            connection = self._connection
            if not (connection.complete or connection.limited or piece.isspace()):
                connection.set_deadline(seconds)
        return bytes(body)

    def close(self, *, ending: bool = False) -> None:
        """Release or abort the connection. An engine that is still generating sees the connection close.

        Args:
            ending: only the last chunk's terminator is outstanding and will arrive at once. The connection is then
                kept for reuse, unless the terminator takes longer than `END_SECONDS`.
        """
        connection = self._connection
        self._client.remove(connection)
        if not (connection.alive and connection.reusable):
            connection.abort()
        elif connection.complete:
            self._client.release(connection)
        elif ending:
            connection.when_complete = lambda: self._client.release(connection)
            asyncio.get_running_loop().call_later(END_SECONDS, connection.abort_if_incomplete, connection.requests_sent)
        else:
            connection.abort()
