"""Does a request leave anything that only the garbage collector frees? All other requests would wait for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.answer.cascade import EscalatingStream
from gateway.answer.relay import Relay, RelayedStream
from gateway.context import RequestContext
from gateway.process.cycle import Cycle
from gateway.request.caller import Caller
from gateway.request.question import Question
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, FakeEngine, Gateway, build_family, running

OF_A_REQUEST = (Caller, Cycle, EscalatingStream, Question, Relay, RelayedStream, RequestContext)


@pytest.fixture
def garbage() -> Iterator[list[object]]:
    """What has become unreachable without being freed, after a `gc.collect()`."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield gc.garbage
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def of_requests(garbage: list[object]) -> set[str]:
    gc.collect()
    return {type(one).__name__ for one in garbage if isinstance(one, OF_A_REQUEST)}


async def test_a_request_leaves_no_garbage(gateway: Gateway, garbage: list[object]) -> None:
    for stream in (True, False, True):
        assert (await gateway.ask(EASY, stream=stream)).status_code == 200
    await gateway.entries(3)
    assert of_requests(garbage) == set()


async def test_a_stream_that_may_escalate_leaves_no_garbage(
    tmp_path: Path, redis_server: RedisServer, garbage: list[object]
) -> None:
    family = build_family(tmp_path / "family", escalations=True)
    async with (
        FakeEngine(family).listening() as engine,
        running(tmp_path / "family", redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway,
    ):
        for _ in range(3):
            response = await gateway.ask(HARD, stream=True)
            assert response.headers["x-laconic-escalation"] == "base"
        await gateway.entries(3)
        assert of_requests(garbage) == set()


async def test_a_request_with_an_error_leaves_no_garbage(gateway: Gateway, garbage: list[object]) -> None:
    assert (await gateway.ask(model="nobody")).status_code == 404
    assert (await gateway.ask(headers={"x-reasoning-budget": "-1"})).status_code == 400
    assert of_requests(garbage) == set()
