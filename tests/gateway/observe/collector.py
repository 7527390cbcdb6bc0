"""An OpenTelemetry collector for tests: it receives spans and metrics as OTLP, with the SDK's own protobufs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What has arrived."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    """By name, as they were last."""
    resources: list[dict[str, Any]] = field(default_factory=list)

    async def traces(self, request: web.Request) -> web.Response:
        sent = ExportTraceServiceRequest.FromString(await request.read())
        self.spans += [span for r in sent.resource_spans for s in r.scope_spans for span in s.spans]
        return web.Response()

    async def receive_metrics(self, request: web.Request) -> web.Response:
        sent = ExportMetricsServiceRequest.FromString(await request.read())
        self.resources += [attributes(r.resource) for r in sent.resource_metrics]
        every = [metric for r in sent.resource_metrics for s in r.scope_metrics for metric in s.metrics]
        self.metrics |= {metric.name: metric for metric in every}
        return web.Response()

    def points(self, name: str) -> list[Any]:
        """The data points of a metric; none if it has not arrived."""
        if name not in self.metrics:
            return []
        metric = self.metrics[name]
        return [*metric.histogram.data_points, *metric.sum.data_points]

    def point(self, name: str) -> Any:
        """The only data point of a metric."""
        (point,) = self.points(name)
        return point


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector that listens."""
    collector = Collector()
    app = web.Application()
    app.add_routes([web.post("/v1/traces", collector.traces), web.post("/v1/metrics", collector.receive_metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span, a data point or a resource."""

    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        content = getattr(value, kind)
        return [plain(one) for one in content.values] if kind == "array_value" else content

    return {attribute.key: plain(attribute.value) for attribute in of.attributes}
