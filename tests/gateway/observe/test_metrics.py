"""Which metrics does the gateway export? Those of several workers are in tests/gateway/process/test_workers.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from gateway.observe.lag import PERIOD_SECONDS
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, EVENTS, UNFAMILIAR, FakeEngine, Gateway, die, running, silent, stream, until


async def test_requests_and_tokens_are_counted_by_checkpoint_and_decision(gateway: Gateway, engine: FakeEngine) -> None:
    for prompt in (EASY, EASY, UNFAMILIAR):
        await gateway.ask(prompt, stream=True)
    await gateway.ask(model="nobody")
    await gateway.entries(3)
    text = (await gateway.client.get("/metrics")).text
    samples = {
        (s.name, s.labels.get("checkpoint"), s.labels.get("decision")): s.value
        for metric in text_string_to_metric_families(text)
        for s in metric.samples
    }
    routed, abstained = ("alpha-0.4", "routed"), ("base", "abstained")
    assert samples["laconic_requests_total", *routed] == 2
    assert samples["laconic_requests_total", *abstained] == 1
    assert samples["laconic_requests_total", "none", "none"] == 1
    assert samples["laconic_reasoning_tokens_total", *routed] == 8
    saved = samples["laconic_reasoning_tokens_saved_estimate_total", *routed]
    entries = await gateway.entries(3)
    assert saved == pytest.approx(sum((e.reference_tokens or 0) - 4 for e in entries if e.decision == "routed"))
    assert ("laconic_reasoning_tokens_saved_estimate_total", *abstained) not in samples
    assert samples["laconic_time_to_first_token_seconds_count", *routed] == 2
    assert samples["laconic_overhead_seconds_count", *routed] == 2
    assert samples["laconic_ledger_spool_entries", None, None] == 0


async def test_who_counted_the_tokens_is_counted_of_requests_that_succeed(gateway: Gateway, engine: FakeEngine) -> None:
    await gateway.ask()
    script, engine.script = engine.script, stream(*EVENTS[:4], then=die)
    await gateway.ask(stream=True)
    engine.script = silent
    body = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=body, timeout=0.3)
    assert sorted(entry.status for entry in await gateway.entries(3)) == [200, 499, 502]
    engine.script = script
    text = (await gateway.client.get("/metrics")).text
    samples = [sample for metric in text_string_to_metric_families(text) for sample in metric.samples]
    counts = {one.labels["counting"]: one.value for one in samples if one.name == "laconic_token_counts_total"}
    assert counts == {"reported": 1}


async def test_how_late_the_event_loop_is_has_a_histogram(gateway: Gateway) -> None:
    await asyncio.sleep(3 * PERIOD_SECONDS)
    text = (await gateway.client.get("/metrics")).text
    samples = [s for metric in text_string_to_metric_families(text) for s in metric.samples]
    assert next(s.value for s in samples if s.name == "laconic_event_loop_lag_seconds_count") >= 1


async def test_difficulties_and_abstentions_are_counted(gateway: Gateway) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    for prompt in (EASY, EASY, UNFAMILIAR):
        await gateway.ask(prompt)
    await gateway.ask(messages=picture)
    await gateway.ask(model="abacus/base")
    difficulties = [entry.difficulty for entry in await gateway.entries(5) if entry.decision == "routed"]
    assert len(difficulties) == 2
    text = (await gateway.client.get("/metrics")).text
    samples = {
        (s.name, s.labels.get("le") or s.labels.get("reason")): s.value
        for metric in text_string_to_metric_families(text)
        for s in metric.samples
    }
    assert samples["laconic_prompt_difficulty_count", None] == 2, "no pinned request"
    assert samples["laconic_prompt_difficulty_sum", None] == pytest.approx(sum(one or 0 for one in difficulties))
    limits = [limit for name, limit in samples if name == "laconic_prompt_difficulty_bucket"]
    assert limits == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0", "+Inf"]
    assert samples["laconic_abstentions_total", "unfamiliar"] == 1
    assert samples["laconic_abstentions_total", "unreadable"] == 1


async def test_metrics_show_which_engines_are_up_and_how_busy_they_are(
    family: Family, family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with (
        FakeEngine(family).listening() as other,
        running(family_dir, redis_server.url, [engine.url, other.url]) as gateway,
    ):
        await other.site.stop()
        engine.script = silent
        asked = asyncio.create_task(gateway.ask(stream=True))
        await engine.busy.wait()
        await gateway.probe()
        text = (await gateway.client.get("/metrics")).text
        asked.cancel()
    samples = [s for metric in text_string_to_metric_families(text) for s in metric.samples if "engine" in s.labels]
    gauges = {(s.name, s.labels["engine"]): s.value for s in samples if not s.name.endswith(("_total", "_created"))}
    assert gauges == {
        ("laconic_engine_up", engine.url): 1,
        ("laconic_engine_up", other.url): 0,
        ("laconic_engine_requests", engine.url): 1,
        ("laconic_engine_requests", other.url): 0,
    }


async def test_metrics_say_whether_limits_are_checked(
    family_dir: Path, mortal_redis: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async def limits_store_up(gateway: Gateway) -> float:
        text = (await gateway.client.get("/metrics", headers=boss)).text
        samples = [s for metric in text_string_to_metric_families(text) for s in metric.samples]
        return next(s.value for s in samples if s.name == "laconic_limits_store_up")

    mortal_redis.start()
    redis = store.connect(mortal_redis.url)
    secret, _ = await keys.create(redis, Grant(name="boss", admin=True, requests_per_minute=100))
    await redis.aclose()
    boss = {"authorization": f"Bearer {secret}"}
    async with running(family_dir, mortal_redis.url, [engine.url], state_dir=tmp_path / "state") as gateway:
        await gateway.ask(headers=boss)
        assert await limits_store_up(gateway) == 1
        mortal_redis.kill()
        await gateway.ask(headers=boss)
        assert await limits_store_up(gateway) == 0
        mortal_redis.start()
        await until(lambda: gateway.limiter.healthy)
        assert await limits_store_up(gateway) == 1


async def test_counters_of_breaches_begin_at_zero_so_that_an_alert_sees_the_first(
    gateway: Gateway, engine: FakeEngine
) -> None:
    text = (await gateway.client.get("/metrics")).text
    samples = [s for metric in text_string_to_metric_families(text) for s in metric.samples]
    for name in ("laconic_cap_breaches_total", "laconic_engine_refused_caps_total"):
        assert [s.value for s in samples if s.name == name and s.labels["engine"] == engine.url] == [0]
