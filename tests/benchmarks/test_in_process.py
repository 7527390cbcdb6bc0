from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, peers
from benchmarks.in_process import Gateway, Loop, running
from benchmarks.upstream import EVENTS
from tests.conftest import RedisServer


def drive(redis: RedisServer, directory: Path, act: Callable[[Gateway], Coroutine[Any, Any, None]]) -> None:
    """Run something on the loop whose connections to engines are no connections."""
    with peers.upstream_server(directory) as upstream:

        async def main() -> None:
            engine = upstream.url.removesuffix("/v1")
            async with running([engine], redis.url, directory / "state") as gateway:
                await act(gateway)

        with asyncio.Runner(loop_factory=Loop) as runner:
            runner.run(main())


def asked(**chat: Any) -> bytes:
    return load.requests("http://127.0.0.1/v1", ["What is 12 + 35 - 8?"], **chat)[0]


def test_streams_and_non_streaming_responses_come_back_whole_and_one_after_the_other(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    async def act(gateway: Gateway) -> None:
        for _ in range(2):
            stream = await gateway.ask(asked(stream=True))
            assert stream.count(b"data: ") >= EVENTS - 2
            assert b"data: [DONE]" in stream
            assert b"The answer is 3." in await gateway.ask(asked(stream=False))

    drive(redis_server, tmp_path, act)


def test_what_is_refused_is_an_error_and_not_counted_as_an_answer(redis_server: RedisServer, tmp_path: Path) -> None:
    async def act(gateway: Gateway) -> None:
        with pytest.raises(RuntimeError, match="400"):
            await gateway.ask(asked(stream=False, max_tokens=-1))

    drive(redis_server, tmp_path, act)
