"""Which spans does a request produce, and what do they contain?"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.config import ConfigError
from gateway.observe.tracing import Tracing
from tests.conftest import RedisServer
from tests.gateway.answer.test_cascade import SECOND, UNCONFIDENT, script_by_model
from tests.gateway.fakes import (
    EASY,
    HARD,
    USAGE,
    FakeEngine,
    Gateway,
    build_family,
    event,
    respond_with,
    running,
    stream,
)
from tests.gateway.observe.collector import attributes, collecting

CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_is_one_trace_from_the_caller_to_the_engine(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, streamed: bool
) -> None:
    async with (
        collecting() as collector,
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=collector.url) as gateway,
    ):
        response = await gateway.ask(
            EASY, headers={"traceparent": TRACEPARENT, "x-reasoning-budget": "50"}, stream=streamed
        )
    inner, outer = collector.spans
    assert outer.trace_id.hex() == inner.trace_id.hex() == CALLERS_TRACE
    assert (outer.parent_span_id.hex(), inner.parent_span_id) == (CALLERS_SPAN, outer.span_id)
    assert engine.headers[0]["traceparent"] == f"00-{CALLERS_TRACE}-{inner.span_id.hex()}-01"
    assert (outer.kind, inner.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert (inner.name, outer.name) == ("chat abacus/alpha-0.4", "chat abacus")
    assert attributes(inner) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "abacus/alpha-0.4",
        "gen_ai.response.model": "alpha-0.4",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 17,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.reasoning.output_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": int(engine.url.rpartition(":")[2]),
    }
    outer_attributes = attributes(outer)
    assert outer_attributes.pop("gen_ai.response.time_to_first_chunk", None) is not None or not streamed
    assert 0 <= outer_attributes.pop("laconic.difficulty") <= 1
    assert outer_attributes.pop("gen_ai.request.stream", False) == streamed
    assert outer_attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "laconic",
        "gen_ai.request.model": "abacus",
        "gen_ai.response.model": "alpha-0.4",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 17,
        "gen_ai.usage.output_tokens": 9,
        "gen_ai.usage.reasoning.output_tokens": 4,
        "http.response.status_code": 200,
        "laconic.request_id": response.headers["x-request-id"],
        "laconic.decision": "routed",
        "laconic.alpha": 0.4,
        "laconic.budget": 50,
    }
    assert EASY not in str(collector.spans)


async def test_a_span_says_what_was_asked(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 16}}
    engine.script = stream(event({"reasoning": "3"}), event({"content": "3"}), event({}, "stop"), event(usage=usage))
    async with (
        collecting() as collector,
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=collector.url, state_dir=tmp_path) as gateway,
    ):
        more = {"max_tokens": 50, "temperature": 0.5, "top_p": 1, "n": 1, "seed": 3}
        await gateway.ask(EASY, headers={"x-conversation-id": "chat of alice@example.com"}, stream=True, **more)
        await gateway.ask(EASY)
        await gateway.client.post("/v1/completions", json={"model": "abacus/base", "prompt": EASY})
    first, second, third = (span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER)
    said = attributes(first)
    assert (said["gen_ai.request.max_tokens"], said["gen_ai.request.temperature"], said["gen_ai.request.top_p"]) == (
        50, 0.5, 1.0,
    )  # fmt: skip
    assert said["gen_ai.usage.cache_read.input_tokens"] == 16
    assert len(said["gen_ai.conversation.id"]) == 32
    assert "alice" not in str(collector.spans)
    assert "gen_ai.conversation.id" not in attributes(second), "nobody named the conversation"
    assert (third.name, attributes(third)["gen_ai.operation.name"]) == (
        "text_completion abacus/base", "text_completion",
    )  # fmt: skip


async def test_an_engine_s_span_lasts_as_long_as_its_response_and_an_escalation_has_two(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    family = build_family(tmp_path / "abacus", escalations=True)
    async with (
        collecting() as collector,
        FakeEngine(family).listening() as engine,
        running(
            tmp_path / "abacus", redis_server.url, [engine.url], otlp_endpoint=collector.url, state_dir=tmp_path
        ) as gateway,
    ):
        engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND))
        await gateway.ask(HARD, stream=True)
        (entry,) = await gateway.entries()
    one, other, outer = collector.spans
    assert (one.name, other.name) == ("chat abacus/alpha-0.4", "chat abacus/base")
    assert outer.start_time_unix_nano <= one.start_time_unix_nano < one.end_time_unix_nano
    assert one.end_time_unix_nano <= other.start_time_unix_nano < other.end_time_unix_nano <= outer.end_time_unix_nano
    reasoning = "gen_ai.usage.reasoning.output_tokens"
    assert (attributes(one)[reasoning], attributes(other)[reasoning], attributes(outer)[reasoning]) == (3, 20, 23)
    duration = {
        attributes(point)["gen_ai.response.model"]: point
        for point in collector.points("gen_ai.client.inference.duration")
    }
    assert duration["base"].sum == pytest.approx((other.end_time_unix_nano - other.start_time_unix_nano) / 1e9)
    tokens = {
        attributes(point)["gen_ai.response.model"]: point.as_int
        for point in collector.points("gen_ai.client.inference.usage.output_tokens")
    }
    assert tokens == {
        "alpha-0.4": 3 + entry.first_answer_tokens,
        "base": 20 + entry.answer_tokens - entry.first_answer_tokens,
    }


async def test_failed_spans_are_marked_as_errors(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = respond_with(500, {"error": {"message": "boom"}})
    async with (
        collecting() as collector,
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=collector.url) as gateway,
    ):
        await gateway.ask(EASY, model="abacus/base")
        await gateway.ask(EASY, model="nobody")
    inner, failed, refused = collector.spans
    assert inner.status.code == failed.status.code == 2
    assert attributes(failed)["error.type"] == "engine_unavailable"
    assert attributes(failed)["gen_ai.response.finish_reasons"] == ["error"]
    assert attributes(inner)["error.type"] == "NoEngineError"
    assert (attributes(refused)["http.response.status_code"], refused.status.code) == (404, 0)


async def test_the_callers_trace_reaches_the_engine_even_if_nothing_is_exported(
    gateway: Gateway, engine: FakeEngine
) -> None:
    await gateway.ask(EASY, headers={"traceparent": TRACEPARENT, "tracestate": "vendor=1"})
    assert engine.headers[0]["traceparent"] == TRACEPARENT
    assert engine.headers[0]["tracestate"] == "vendor=1"
    for headers in ({}, {"traceparent": "nonsense"}):
        await gateway.ask(EASY, headers=headers)
        assert "traceparent" not in engine.headers[-1]


async def test_an_escalation_that_comes_to_nothing_leaves_the_first_span_open(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    family = build_family(tmp_path / "abacus", escalations=True)
    async with (
        collecting() as collector,
        FakeEngine(family).listening() as engine,
        running(
            tmp_path / "abacus", redis_server.url, [engine.url], otlp_endpoint=collector.url, state_dir=tmp_path
        ) as gateway,
    ):
        engine.script = script_by_model(stream(*UNCONFIDENT), respond_with(500, {"error": {"message": "boom"}}))
        assert (await gateway.ask(HARD, stream=True)).status_code == 200
    one, other, _ = collector.spans
    assert one.end_time_unix_nano > other.end_time_unix_nano
    assert ("error.type" in attributes(one), "error.type" in attributes(other)) == (False, True)


def test_an_endpoint_without_the_sdk_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        Tracing("http://127.0.0.1:4318")


async def test_an_engine_error_that_quotes_the_prompt_is_in_no_span(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = respond_with(400, {"error": {"message": f"cannot use {EASY!r}"}})
    async with (
        collecting() as collector,
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=collector.url) as gateway,
    ):
        assert EASY in (await gateway.ask(EASY)).text
    assert len(collector.spans) == 2
    assert EASY not in str(collector.spans)
