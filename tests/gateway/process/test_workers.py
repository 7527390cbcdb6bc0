"""Do several worker processes act as one gateway?"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import ledger
from tests.conftest import RedisServer, patient
from tests.gateway.fakes import EVENTS, FakeEngine, forever, stream
from tests.gateway.process.serving import CHAT, is_running, serving


async def test_several_workers_act_as_one_gateway(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """They share the port, the limits, the ledger and the metrics, and one of them may die."""
    redis = patient(redis_server.url)
    limited, _ = await keys.create(redis, Grant(name="team-a", requests_per_minute=30))
    boss, _ = await keys.create(redis, Grant(name="boss", admin=True))
    options = ("--redis", redis_server.url, "--workers", "3", "--log-format", "json")
    async with serving(engine, family_dir, tmp_path, *options) as serve:

        def workers() -> list[psutil.Process]:
            running = filter(is_running, serve.children)
            return [child for child in running if child.cmdline()[1:4] == ["-P", "-m", "gateway.process.workers"]]

        async def ask(secret: str) -> int:
            # A new connection, which any worker may accept.
            async with httpx.AsyncClient(base_url=serve.url, timeout=30) as client:
                headers = {"authorization": f"Bearer {secret}"}
                return (await client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code

        first = workers()
        assert len(first) == 3
        seconds, _ = redis_server.client.time()
        if seconds % 60 > 40:
            await asyncio.sleep(61 - seconds % 60)
        statuses = await asyncio.gather(*(ask(limited) for _ in range(50)))
        assert (statuses.count(200), statuses.count(429)) == (30, 20)

        first[0].kill()
        first[0].wait()
        assert [await ask(boss) for _ in range(10)] == [200] * 10
        while len(workers()) < 3:
            await asyncio.sleep(0.05)

        async with httpx.AsyncClient(base_url=serve.url, headers={"authorization": f"Bearer {boss}"}) as client:
            while True:
                totals = (await client.get("/v1/savings?by=key")).json()["groups"]
                if sum(group["requests"] for group in totals.values()) >= 40:
                    break
                await asyncio.sleep(0.05)
            families = text_string_to_metric_families((await client.get("/metrics")).text)
        counted: Counter[str] = Counter()
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == "laconic_requests_total":
                counted[sample.labels["status"]] += int(sample.value)
        assert counted == {"200": 40, "429": 20}
        assert {key: group["requests"] for key, group in totals.items()} == {"team-a": 30, "boss": 10}
        last = workers()
    logs = (tmp_path / "logs").glob("worker-*.log")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines() if '"request finished"' in line]
    assert len(lines) == 40
    assert all(line["request_id"].startswith("req_") and line["status"] == 200 for line in lines)
    assert len([one async for one in ledger.read_entries(redis, 0)]) == 40
    assert not any(worker.is_running() for worker in last)
    await redis.aclose()


async def test_the_next_start_waits_for_workers_that_finish_their_requests(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    # Longer than a start takes: a start that does not wait would be up before the workers have ended.
    options = ("--redis", redis_server.url, "--workers", "2", "--drain-seconds", "8")
    async with serving(engine, family_dir, tmp_path, *options) as serve:
        workers = serve.children
        async with (
            httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
            client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer,
        ):
            pieces = answer.aiter_bytes()
            await anext(pieces)
            serve.process.kill()
            async with serving(engine, family_dir, tmp_path, *options):
                assert not [worker for worker in workers if is_running(worker)]
