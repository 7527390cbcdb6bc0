"""Which metrics does a request produce, under which names and boundaries, and do they add up?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from gateway.observe.meters import FIRST_TOKEN, PER_TOKEN, SECONDS, TOKENS
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, USAGE, FakeEngine, event, respond_with, running, stream
from tests.gateway.observe.collector import Collector, attributes, collecting

USED = "gen_ai.client.inference.usage"
OPERATION = "gen_ai.client.inference.operation"


async def after(
    engine: FakeEngine, family_dir: Path, redis: RedisServer, state_dir: Path, *asked: dict[str, Any]
) -> Collector:
    """What has arrived when these requests have been answered and the gateway has stopped."""
    settings = {"state_dir": state_dir}
    async with (
        collecting() as collector,
        running(family_dir, redis.url, [engine.url], otlp_endpoint=collector.url, **settings) as gateway,
    ):
        for one in asked:
            await gateway.ask(EASY, **one)
    return collector


async def test_tokens_are_counted_with_reasoning_and_cached_ones_apart(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 16}}
    engine.script = stream(event({"reasoning": "3"}), event({"content": "3"}), event({}, "stop"), event(usage=usage))
    found = await after(engine, family_dir, redis_server, tmp_path, {"stream": True}, {"stream": True})
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "abacus/alpha-0.4",
        "gen_ai.response.model": "alpha-0.4",
        "server.address": "127.0.0.1",
        "server.port": int(engine.url.rpartition(":")[2]),
    }
    sums = {
        "input_tokens": 34, "output_tokens": 18, "reasoning.output_tokens": 8, "cache_read.input_tokens": 32,
    }  # fmt: skip
    for name, total in sums.items():
        point = found.point(f"{USED}.{name}")
        assert point.as_int == total
        assert attributes(point) == common | {"gen_ai.token.modality": "text"}
        metric = found.metrics[f"{USED}.{name}"]
        assert (metric.unit, metric.sum.is_monotonic) == ("{token}", True)
        assert metric.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    for kind, total in (("input", 34), ("output", 18)):
        point = found.point(f"{OPERATION}.{kind}_tokens")
        assert (point.sum, point.count, tuple(point.explicit_bounds)) == (total, 2, TOKENS)
        assert attributes(point) == common
    by_type = {attributes(point)["gen_ai.token.type"]: point.sum for point in found.points("gen_ai.client.token.usage")}
    assert by_type == {"input": 34, "output": 18}


async def test_the_time_of_streams_is_measured_at_the_gateway_and_at_the_engine(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    found = await after(engine, family_dir, redis_server, tmp_path, {"stream": True}, {})
    served = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "laconic",
        "gen_ai.request.model": "abacus",
        "gen_ai.response.model": "alpha-0.4",
    }
    boundaries = {
        "gen_ai.server.request.duration": (2, SECONDS),
        "gen_ai.server.time_to_first_token": (1, FIRST_TOKEN),
        "gen_ai.server.time_per_output_token": (1, PER_TOKEN),
        "gen_ai.client.inference.duration": (2, SECONDS),
        "gen_ai.client.inference.time_to_first_chunk": (1, SECONDS),
    }
    for name, (count, bounds) in boundaries.items():
        point = found.point(name)
        assert (point.count, tuple(point.explicit_bounds), found.metrics[name].unit) == (count, bounds, "s")
        assert point.sum > 0
        if ".server." in name:
            assert attributes(point) == served
    whole, first, each = (
        found.point(f"gen_ai.server.{name}").sum
        for name in ("request.duration", "time_to_first_token", "time_per_output_token")
    )
    assert first + 8 * each < whole, "9 tokens, the first of which has its own metric"


async def test_failures_have_a_type_and_no_first_token(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    engine.script = respond_with(500, {"error": {"message": f"boom at {EASY}"}})
    found = await after(engine, family_dir, redis_server, tmp_path, {"model": "abacus/base", "stream": True})
    assert attributes(found.point("gen_ai.server.request.duration"))["error.type"] == "engine_unavailable"
    assert attributes(found.point("gen_ai.client.inference.duration"))["error.type"] == "NoEngineError"
    for name in ("gen_ai.server.time_to_first_token", f"{USED}.output_tokens"):
        assert found.points(name) == []
    assert EASY not in str(found.metrics)


async def test_requests_that_are_refused_make_no_metrics_of_models_that_do_not_exist(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    found = await after(engine, family_dir, redis_server, tmp_path, {"model": "anything-1"}, {"model": "anything-2"})
    assert found.metrics == {}
    assert len(found.spans) == 2


async def test_each_process_names_itself(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    names: set[str] = set()
    for number in range(2):
        (resource, *_) = (await after(engine, family_dir, redis_server, tmp_path / str(number), {})).resources
        assert resource["service.name"] == "laconic"
        names.add(resource["service.instance.id"])
    assert len(names) == 2


@pytest.mark.parametrize("sampled", ["00", "01"])
async def test_metrics_do_not_depend_on_sampling(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, sampled: str
) -> None:
    caller = {"traceparent": f"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{sampled}"}
    found = await after(engine, family_dir, redis_server, tmp_path, {"headers": caller})
    assert found.point(f"{USED}.output_tokens").as_int == 9
    assert len(found.spans) == (2 if sampled == "01" else 0)
