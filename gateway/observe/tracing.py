"""What does a trace show? A span per request with GenAI attributes, and a span per request to an engine.

A caller's `traceparent` is passed on to the engine even if nothing is exported, so the caller's trace stays whole. With
an OTLP endpoint, what the spans say is exported as metrics, too (`gateway/observe/meters.py`), whether a span is
sampled or not. Neither contains prompts, answers or secrets.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.config import ConfigError
from gateway.ledger.entry import Entry
from gateway.observe import genai
from gateway.observe.genai import Asked
from gateway.observe.meters import Call, Meters
from gateway.release import VERSION

_W3C = TraceContextTextMapPropagator()
_NO_TRACER = NoOpTracer()
_NO_CALLER = Context()


class Tracing:
    """Starts the spans of requests, and exports them with their metrics if there is an OTLP endpoint."""

    def __init__(self, endpoint: str | None) -> None:
        """
        Raises:
            ConfigError: there is an endpoint, but the OpenTelemetry SDK is not installed.
        """
        self._providers: tuple[Any, ...] = ()
        self._tracer, self._meters = _NO_TRACER, None
        if endpoint:
            self._providers, self._tracer, self._meters = _exporting(endpoint)

    def start_trace(self, headers: Mapping[str, str]) -> Trace:
        """Start the span of a request that has arrived."""
        if not self._providers and "traceparent" not in headers:
            return Trace(_NO_TRACER, _NO_CALLER)
        return Trace(self._tracer, _W3C.extract(headers), self._meters)

    async def start(self) -> None:
        """Nothing to start."""

    async def aclose(self) -> None:
        """Export what remains."""
        for provider in self._providers:
            await asyncio.to_thread(provider.shutdown)


@dataclass
class _EngineSpan:
    """The span of a request to an engine, which lasts as long as the response."""

    span: Span
    call: Call
    began: int
    """In nanoseconds since 1970, like the end."""
    ended: int | None = None

    def end(self) -> None:
        """End it now, unless it has ended."""
        self.ended = self.ended or time.time_ns()
        self.call.seconds = (self.ended - self.began) / 1e9


class Trace:
    """The spans of one request."""

    _asked: Asked | None = None
    _engines: tuple[_EngineSpan, ...] = ()

    def __init__(self, tracer: Tracer, caller: Context, meters: Meters | None = None) -> None:
        self._tracer, self._caller, self._meters = tracer, caller, meters
        attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": genai.GATEWAY}
        self._span = tracer.start_span("chat", caller, SpanKind.SERVER, attributes)

    @property
    def is_exported(self) -> bool:
        """Whether anybody wants to know what `describe` says."""
        return self._meters is not None

    def describe(self, asked: Asked) -> None:
        """Say what was asked, before the end."""
        self._asked = asked

    def engine_span(self, model: str, checkpoint: str) -> AbstractContextManager[dict[str, str]]:
        """A context manager that opens a response of an engine. It yields the headers to send along.

        Args:
            model: the engine's name for the checkpoint.
            checkpoint: its own name.
        """
        return nullcontext({}) if self._caller is _NO_CALLER else self._engine_span(model, checkpoint)

    @contextmanager
    def _engine_span(self, model: str, checkpoint: str) -> Generator[dict[str, str]]:
        earlier = self._engines[-1] if self._engines else None
        if earlier is not None:
            earlier.end()  # its response is not read any more
        attributes = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": genai.ENGINE,
            "gen_ai.request.model": model,
        }
        context = set_span_in_context(self._span)
        began = time.time_ns()
        span = self._tracer.start_span(f"chat {model}", context, SpanKind.CLIENT, attributes, start_time=began)
        engine = _EngineSpan(span, Call(model, checkpoint), began)
        self._engines = (*self._engines, engine)
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(span))
        try:
            yield headers
        except BaseException as error:
            # Without its message: an engine's error message may quote the prompt.
            engine.call.error = type(error).__name__
            engine.end()
            if earlier is not None and earlier.call.error is None:
                earlier.ended = None  # an escalation that came to nothing: the first response goes on
            raise

    def answered_by(self, url: str, *, stream: bool) -> None:
        """Say which engine has begun to answer the last request to one."""
        if self._engines:
            last = self._engines[-1]
            last.call.server = genai.of_engine(url)
            if stream:
                last.call.first_chunk_seconds = (time.time_ns() - last.began) / 1e9

    def end(self, status: int, request_id: str, entry: Entry | None) -> None:
        """End the request's span. `entry` is None if the request was refused before it had a ledger entry."""
        span, asked = self._span, self._asked
        self._end_engines(entry)
        if self._meters is not None and entry is not None and asked is not None:
            self._meters.record(entry, asked, [one.call for one in self._engines])
        if span.is_recording():
            span.set_attributes({"http.response.status_code": status, "laconic.request_id": request_id})
            if asked is not None:
                span.update_name(f"{asked.operation} {asked.model}")
                span.set_attributes(genai.of_request(asked))
            if entry is not None:
                span.set_attributes(genai.of_response(entry))
            if status >= 500:
                span.set_status(Status(StatusCode.ERROR, entry.error if entry else ""))
        span.end()

    def _end_engines(self, entry: Entry | None) -> None:
        if not self._engines:
            return
        answered = [one for one in self._engines if one.call.error is None]
        if entry is not None and answered:
            if entry.error:
                answered[-1].call.error = entry.error
            self._say_usage(entry, answered)
        for one in self._engines:
            one.end()
            if one.span.is_recording():
                one.span.set_attributes(one.call.server)
                if one.call.error is not None:
                    one.span.set_attribute("error.type", one.call.error)
                    one.span.set_status(Status(StatusCode.ERROR))
            one.span.end(one.ended)

    def _say_usage(self, entry: Entry, answered: list[_EngineSpan]) -> None:
        """What the last call of each checkpoint took, and how the answer ended."""
        last = {one.call.checkpoint: one for one in answered}
        for part in entry.parts:
            if (one := last.get(part.checkpoint)) is not None and one.span.is_recording():
                told = entry.cached_tokens is not None and not part.repeats
                one.span.set_attributes(genai.of_usage(part.spent, cached=told))
                one.span.set_attribute("gen_ai.response.model", part.checkpoint)
        answered[-1].span.set_attribute("gen_ai.response.finish_reasons", genai.finish_reasons(entry))


def _exporting(endpoint: str) -> tuple[tuple[Any, ...], Tracer, Meters]:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise ConfigError("otlp_endpoint: exporting traces needs pip install 'laconic-gateway[traces]'") from None
    # Workers count for themselves, so each needs a name of its own.
    instance = {"service.name": "laconic", "service.version": VERSION, "service.instance.id": str(uuid.uuid4())}
    resource, url = Resource.create(instance), endpoint.rstrip("/")
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
    metrics = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter(f"{url}/v1/metrics"))], resource)
    return (traces, metrics), traces.get_tracer("laconic", VERSION), Meters(metrics.get_meter("laconic", VERSION))
