from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway import supervision
from tests.conftest import RedisServer
from tests.deploy.exposed import Exposed, Sample, parse
from tests.gateway.fakes import (
    COMPLETION,
    EASY,
    EVENTS,
    HARD,
    UNFAMILIAR,
    USAGE,
    FakeEngine,
    Gateway,
    build_family,
    event,
    respond_with,
    running,
    stream,
)

WITH_FEEDBACK = ("laconic_quality_difference", "laconic_quality_difference_low", "laconic_quality_difference_high")
"""Gauges by `source` that the gateway exposes as soon as there is feedback to compare."""


LONG = USAGE | {"completion_tokens": 400, "completion_tokens_details": {"reasoning_tokens": 380}}


@pytest.fixture(scope="session")
def exposed(tmp_path_factory: pytest.TempPathFactory, _shared_redis: RedisServer) -> Exposed:
    """What a gateway exposes after requests of every kind, and `up`, which is Prometheus' own."""
    directory = tmp_path_factory.mktemp("exposed")
    _shared_redis.client.flushall()
    found = parse(asyncio.run(_exposition(directory, _shared_redis.url)))
    for name in WITH_FEEDBACK:
        found.setdefault(name, [Sample({"source": "judge"}, is_counter=False)])
    return found | {"up": [Sample({}, is_counter=False)]}


async def _exposition(directory: Path, redis_url: str) -> str:
    family = build_family(directory / "abacus")
    async with (
        FakeEngine(family).listening() as engine,
        running(directory / "abacus", redis_url, [engine.url], state_dir=directory / "state") as gateway,
    ):
        await _ask_everything(gateway, engine)
        supervision.faults["a test's"] = 1
        try:
            # As Prometheus asks if METRICS_KEY_FILE is empty.
            scraped = await gateway.client.get("/metrics", headers={"authorization": "Bearer"})
            assert scraped.status_code == 200
            return scraped.text
        finally:
            del supervision.faults["a test's"]


async def _ask_everything(gateway: Gateway, engine: FakeEngine) -> None:
    """Requests that are routed, abstained from, refused, failed, counted by the gateway and thought beyond a cap."""
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    for prompt in (EASY, HARD, UNFAMILIAR):
        assert (await gateway.ask(prompt, stream=True)).status_code == 200
    await gateway.ask(messages=picture)
    gateway.services.metrics.record_refusal(429)  # no limit of a key is exhausted here
    engine.script = stream(
        EVENTS[0], *[event({"reasoning": " 1 + 2 = 3, again."})] * 40, *EVENTS[3:-2], event(usage=LONG)
    )
    for _ in range(2):  # after the first, the gateway ends the thinking itself
        await gateway.ask(stream=True, headers={"x-reasoning-budget": "16"})
    engine.script = respond_with(200, COMPLETION | {"usage": None})
    assert (await gateway.ask()).status_code == 200
    engine.script = respond_with(500, {"error": {"message": "out of memory"}})
    assert (await gateway.ask()).status_code >= 500
    await gateway.entries(8)
