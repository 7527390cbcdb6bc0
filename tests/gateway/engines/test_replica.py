"""How long does an engine have for a running request, when the engine is gone for a while?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import uvloop

from gateway.engines.connection import KEEP_ALIVE
from gateway.engines.problem import REFUSED
from gateway.engines.replica import Replica
from gateway.engines.wire import Response
from tests.gateway.engines.test_wire import WITH_LENGTH, read_request

SERVES = frozenset({"base"})
GRACE_SECONDS = 0.1
LONG_AFTER_SECONDS = 0.4


@dataclass
class Running:
    """An engine with a running request, which it answers when `finishes` is set."""

    replica: Replica
    request: asyncio.Task[Response]
    finishes: asyncio.Event

    async def answer(self) -> bytes:
        response = await self.request
        try:
            return await response.read(100, 5.0)
        finally:
            response.close()


@asynccontextmanager
async def running_request() -> AsyncIterator[Running]:
    begun, finishes = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        begun.set()
        await finishes.wait()
        writer.write(WITH_LENGTH)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    replica = Replica(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", 5.0)
    replica.mark_serving(SERVES)
    request = asyncio.create_task(replica.client.post("/", b"", {}))
    try:
        async with asyncio.timeout(60):
            await begun.wait()
            yield Running(replica, request, finishes)
    finally:
        finishes.set()
        replica.client.close()
        server.close()


async def test_an_engine_that_is_up_again_has_as_long_as_before_for_its_running_requests() -> None:
    async with running_request() as running:
        running.replica.mark_unreachable(REFUSED, GRACE_SECONDS)
        running.replica.mark_serving(SERVES)
        await asyncio.sleep(LONG_AFTER_SECONDS)
        running.finishes.set()
        assert await running.answer() == b"hello"


async def test_an_engine_that_stays_away_has_its_grace_once_however_often_it_is_probed() -> None:
    async with running_request() as running:
        running.replica.mark_unreachable(REFUSED, GRACE_SECONDS)
        running.replica.mark_unreachable(REFUSED, 600.0)
        with pytest.raises(TimeoutError, match="in time"):
            await running.request


async def test_an_outage_that_ends_leaves_every_other_limit() -> None:
    async with running_request() as running:
        (connection,) = running.replica.client._busy
        connection.set_deadline(GRACE_SECONDS)
        running.replica.mark_unreachable(REFUSED, 600.0)
        running.replica.mark_serving(SERVES)
        with pytest.raises(TimeoutError, match="in time"):
            await running.request


async def test_a_limit_that_is_set_in_an_outage_stays_after_it() -> None:
    async with running_request() as running:
        (connection,) = running.replica.client._busy
        running.replica.mark_unreachable(REFUSED, 600.0)
        connection.set_deadline(GRACE_SECONDS)
        running.replica.mark_serving(SERVES)
        with pytest.raises(TimeoutError, match="in time"):
            await running.request


async def test_after_an_outage_the_system_looks_whether_the_other_end_is_still_there() -> None:
    """A machine that failed says nothing, and another one may have come up in its place."""
    async with running_request() as running:
        (connection,) = running.replica.client._busy
        running.replica.mark_unreachable(REFUSED, GRACE_SECONDS)
        running.replica.mark_serving(SERVES)
        connected = connection._transport.get_extra_info("socket")
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert {option: connected.getsockopt(socket.IPPROTO_TCP, option) for option in KEEP_ALIVE} == KEEP_ALIVE
        running.finishes.set()
        assert await running.answer() == b"hello"


def test_a_connection_that_has_ended_does_not_keep_an_engine_out_of_service() -> None:
    """An escalation holds the first checkpoint's whole response while the second one thinks."""

    async def come_back() -> None:
        async with running_request() as running:
            running.finishes.set()
            response = await running.request
            assert await response.read(100, 5.0) == b"hello"
            (connection,) = running.replica.client._busy
            while connection.alive:  # until the engine has closed it
                await asyncio.sleep(0.01)
            running.replica.mark_unreachable(REFUSED, GRACE_SECONDS)
            running.replica.mark_serving(SERVES)
            assert running.replica.serving == SERVES
            connection._outage = True  # it ends in the outage
            running.replica.mark_unreachable(REFUSED, GRACE_SECONDS)
            running.replica.mark_serving(SERVES)
            assert running.replica.serving == SERVES
            response.close()

    uvloop.run(come_back())  # whose connections have no socket once they have ended
