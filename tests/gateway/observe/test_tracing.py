"""Which spans does a request produce, and what do they contain?"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.config import ConfigError
from gateway.observe.tracing import Tracing
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, respond_with, running

CALLERS_TRACE, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[Span]]]:
    """A fake OpenTelemetry collector: its URL, and the spans it receives."""
    spans: list[Span] = []

    async def receive(request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        spans.extend(span for r in sent.resource_spans for s in r.scope_spans for span in s.spans)
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/v1/traces", receive)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", spans
    finally:
        await runner.cleanup()


def attributes(span: Span) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        content = getattr(value, kind)
        return [plain(one) for one in content.values] if kind == "array_value" else content

    return {attribute.key: plain(attribute.value) for attribute in span.attributes}


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_request_is_one_trace_from_the_caller_to_the_engine(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, streamed: bool
) -> None:
    async with (
        collector() as (endpoint, spans),
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=endpoint) as gateway,
    ):
        response = await gateway.ask(
            EASY, headers={"traceparent": TRACEPARENT, "x-reasoning-budget": "50"}, stream=streamed
        )
    inner, outer = spans
    assert outer.trace_id.hex() == inner.trace_id.hex() == CALLERS_TRACE
    assert (outer.parent_span_id.hex(), inner.parent_span_id) == (CALLERS_SPAN, outer.span_id)
    assert engine.headers[0]["traceparent"] == f"00-{CALLERS_TRACE}-{inner.span_id.hex()}-01"
    assert (outer.kind, inner.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert attributes(inner)["gen_ai.request.model"] == "abacus/alpha-0.4"
    outer_attributes = attributes(outer)
    assert outer_attributes.pop("gen_ai.response.time_to_first_chunk", None) is not None or not streamed
    assert 0 <= outer_attributes.pop("laconic.difficulty") <= 1
    assert outer_attributes == {
        "gen_ai.operation.name": "chat",
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
    assert EASY not in str(spans)


async def test_failed_spans_are_marked_as_errors(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = respond_with(500, {"error": {"message": "boom"}})
    async with (
        collector() as (endpoint, spans),
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=endpoint) as gateway,
    ):
        await gateway.ask(EASY, model="abacus/base")
        await gateway.ask(EASY, model="nobody")
    inner, failed, refused = spans
    assert inner.status.code == failed.status.code == 2
    assert attributes(failed)["error.type"] == "engine_unavailable"
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


def test_an_endpoint_without_the_sdk_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="otlp_endpoint"):
        Tracing("http://127.0.0.1:4318")


async def test_an_engine_error_that_quotes_the_prompt_is_in_no_span(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = respond_with(400, {"error": {"message": f"cannot use {EASY!r}"}})
    async with (
        collector() as (endpoint, spans),
        running(family_dir, redis_server.url, [engine.url], otlp_endpoint=endpoint) as gateway,
    ):
        assert EASY in (await gateway.ask(EASY)).text
    assert len(spans) == 2
    assert EASY not in str(spans)
