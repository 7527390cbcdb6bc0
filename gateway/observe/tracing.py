"""What does a trace show? A span per request with GenAI attributes, and a span per request to an engine.

A caller's `traceparent` is passed on to the engine even if no spans are exported, so the caller's trace stays whole.
Spans contain no prompts, answers or secrets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.config import ConfigError
from gateway.ledger.entry import Entry

_W3C = TraceContextTextMapPropagator()
_NO_TRACER = NoOpTracer()
_NO_CALLER = Context()


class Tracing:
    """Starts the spans of requests, and exports them if there is an OTLP endpoint."""

    def __init__(self, endpoint: str | None) -> None:
        """
        Raises:
            ConfigError: there is an endpoint, but the OpenTelemetry SDK is not installed.
        """
        self._provider, self._tracer = _exporting(endpoint) if endpoint else (None, _NO_TRACER)

    def start_trace(self, headers: Mapping[str, str]) -> Trace:
        """Start the span of a request that has arrived."""
        if self._provider is None and "traceparent" not in headers:
            return Trace(_NO_TRACER, _NO_CALLER)
        return Trace(self._tracer, _W3C.extract(headers))

    async def start(self) -> None:
        """Nothing to start."""

    async def aclose(self) -> None:
        """Export the remaining spans."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


class Trace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, caller: Context) -> None:
        self._tracer, self._caller = tracer, caller
        self._span = tracer.start_span("chat", caller, SpanKind.SERVER, {"gen_ai.operation.name": "chat"})

    def engine_span(self, model: str) -> AbstractContextManager[dict[str, str]]:
        """A context manager for the span of a request to an engine. It yields the headers to send along."""
        return nullcontext({}) if self._caller is _NO_CALLER else self._engine_span(model)

    @contextmanager
    def _engine_span(self, model: str) -> Generator[dict[str, str]]:
        context = set_span_in_context(self._span)
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": model}
        # The SDK would record the message of an exception, and an engine's error message may quote the prompt.
        without_messages: Any = {"record_exception": False, "set_status_on_exception": False}
        name = f"chat {model}"
        with self._tracer.start_as_current_span(name, context, SpanKind.CLIENT, attributes, **without_messages) as span:
            headers: dict[str, str] = {}
            _W3C.inject(headers, set_span_in_context(span))
            try:
                yield headers
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR))
                raise

    def end(self, status: int, request_id: str, entry: Entry | None) -> None:
        """End the request's span. `entry` is None if the request was refused before it had a ledger entry."""
        span = self._span
        if span.is_recording():
            span.set_attributes({"http.response.status_code": status, "laconic.request_id": request_id})
            if entry is not None:
                span.set_attributes(_attributes(entry))
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR, entry.error if entry else ""))
        span.end()


def _attributes(entry: Entry) -> dict[str, Any]:
    attributes = {
        "gen_ai.response.model": entry.checkpoint,
        "gen_ai.response.finish_reasons": [entry.finish_reason],
        "gen_ai.usage.input_tokens": entry.prompt_tokens,
        "gen_ai.usage.output_tokens": entry.reasoning_tokens + entry.answer_tokens,
        "gen_ai.usage.reasoning.output_tokens": entry.reasoning_tokens,
        "gen_ai.response.time_to_first_chunk": entry.first_token_seconds,
        "laconic.decision": entry.decision,
        "laconic.alpha": entry.alpha,
        "laconic.difficulty": entry.difficulty,
        "laconic.budget": entry.budget,
        "laconic.key": entry.key or None,
        "error.type": entry.error or None,
    }
    return {name: value for name, value in attributes.items() if value is not None}


def _exporting(endpoint: str) -> tuple[Any, Tracer]:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise ConfigError("otlp_endpoint: exporting traces needs pip install 'laconic-gateway[traces]'") from None
    provider = TracerProvider(resource=Resource.create({"service.name": "laconic"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")))
    return provider, provider.get_tracer("laconic")
