"""What can an operator watch? Prometheus metrics by checkpoint and decision, and one log line per request.

Neither contains prompts or answers. A request that was refused before a decision is counted under `none`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from gateway import supervision
from gateway.access.limits import Limiter
from gateway.engines.pool import Engines
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger
from gateway.ledger.savings import totals_of
from gateway.observe.instruments import BackgroundMetrics, DecisionEvent, EngineMetrics, RequestMetrics
from gateway.observe.lag import LoopLag
from gateway.observe.quality import QualityGauges
from gateway.supervision import BackgroundTask

log = logging.getLogger("laconic.requests")

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, set if there are several workers: the directory of their metrics files."""
REFRESH_SECONDS = 1.0
WARNING_SECONDS = 60.0
_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)


class Metrics:
    """One gateway's metrics, in their own registry, so that several gateways can run in one process."""

    def __init__(self, *, ledger: Ledger, limiter: Limiter, engines: Engines, worker: int = 0) -> None:
        """`worker` tells processes apart whose metrics are shown together: the first one measures the quality."""
        self._ledger, self._limiter, self._watched = ledger, limiter, engines
        self._registry = registry = CollectorRegistry()
        self._requests, self._engines = RequestMetrics(registry), EngineMetrics(registry)
        self._background = BackgroundMetrics(registry)
        self._lag = LoopLag(self._background.lag.observe)
        self._quality = QualityGauges(ledger, registry) if worker == 0 else None
        self._counted: dict[tuple[int, str], int] = {}
        """What has been added to counters of totals that are kept elsewhere: by counter and label."""
        self._lost_before = 0
        self.over_cap: dict[str, int] = {}
        """How many requests thought beyond their cap since the start, by engine URL, for those that ever did."""
        self._warned: dict[str, float] = {}

    def record_refusal(self, status: int) -> None:
        """Record a request that was refused before a decision."""
        self._requests.requests.labels("none", "none", str(status)).inc()
        log.info("request refused", extra={"fields": {"status": status}})

    def record(self, entry: Entry, overhead_seconds: float) -> None:
        """Record a request that has ended."""
        labels = (entry.checkpoint, entry.decision)
        _labelled(self._requests.requests, *labels, str(entry.status)).inc()
        _labelled(self._requests.reasoning, *labels).inc(entry.reasoning_tokens)
        if entry.status == 200 and not entry.assumed:  # of others no engine could report anything
            _labelled(self._requests.counting, entry.counting).inc()
        if (totals := totals_of(entry)).estimated:
            _labelled(self._requests.saved, *labels).inc(totals.saved_tokens)
        if entry.first_token_seconds is not None:
            _labelled(self._requests.first_token, *labels).observe(entry.first_token_seconds)
        _labelled(self._requests.overhead, *labels).observe(overhead_seconds)
        if entry.difficulty is not None and entry.holdout_fraction is not None:
            self._requests.difficulty.observe(entry.difficulty)
        if entry.abstention != "none":
            _labelled(self._requests.abstentions, entry.abstention).inc()
        if not log.isEnabledFor(logging.INFO):
            return
        log.info(
            "request finished",
            extra={
                "fields": {
                    "key": entry.key or "none",
                    "checkpoint": entry.checkpoint,
                    "decision": entry.decision,
                    "status": entry.status,
                    "budget": "unlimited" if entry.budget is None else entry.budget,
                    "prompt_tokens": entry.prompt_tokens,
                    "reasoning_tokens": entry.reasoning_tokens,
                    "answer_tokens": entry.answer_tokens,
                    **({} if entry.counting == "reported" else {"counting": entry.counting}),
                    **({} if entry.answered or entry.status != 200 else {"answered": False}),
                    **({"over_cap": True} if entry.over_cap else {}),
                    "seconds": round(entry.total_seconds, 4),
                    **({"via": entry.via} if entry.via else {}),
                    **({"error": entry.error} if entry.error else {}),
                }
            },
        )

    def record_forced(self, engine: str) -> None:
        """Record that the gateway ended the thinking itself."""
        self._engines.forced.labels(engine).inc()

    def record_shadow(self, outcome: str, reference_tokens: int = 0, judge_tokens: int = 0) -> None:
        """Record a shadow comparison, or that one was skipped, with the tokens that it cost."""
        self._background.shadows.labels(outcome).inc()
        self._background.shadow_tokens.labels("reference").inc(reference_tokens)
        self._background.shadow_tokens.labels("judge").inc(judge_tokens)

    def record_decision(self, event: DecisionEvent) -> None:
        """Record a decision for another router, or that its outcome has come or never will."""
        self._background.decisions.labels(event).inc()

    def record_over_cap(self, engine: str, entry: Entry, cap: int | None) -> None:
        """Record that an engine thought beyond its cap, and warn about it at most once a minute for each engine."""
        self._engines.over_cap.labels(engine).inc()
        self.over_cap[engine] = self.over_cap.get(engine, 0) + 1
        now = time.monotonic()
        if now - self._warned.get(engine, -math.inf) < WARNING_SECONDS:
            return
        self._warned[engine] = now
        log.warning(
            "engine %s thought %d tokens under a cap of %s for each of %d choices (%d such requests since the start):"
            " check its --reasoning-parser",
            *(engine, entry.reasoning_tokens, cap, entry.choices, self.over_cap[engine]),
        )

    async def start(self) -> None:
        """Start updating the gauges regularly: any worker may be scraped for the gauges of all."""
        self._lag.start()
        if self._quality is not None:
            self._quality.start()
        self._refreshing = BackgroundTask("gauges", self._keep_refreshing)

    async def aclose(self) -> None:
        """Stop updating the gauges."""
        self._lag.stop()
        if self._quality is not None:
            await self._quality.aclose()
        await self._refreshing.stop()
        self._refresh()

    async def _keep_refreshing(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(REFRESH_SECONDS)

    def _refresh(self) -> None:
        self._background.spool.set(self._ledger.pending)
        self._background.unsafe.set(self._ledger.in_memory)
        self._background.lost.inc(self._ledger.lost - self._lost_before)
        self._lost_before = self._ledger.lost
        self._background.reserved.set(self._limiter.reserved)
        self._background.limits_checked.set(self._limiter.healthy)
        self._catch_up(self._background.faults, supervision.faults)
        self._catch_up(self._engines.refused_caps, self._watched.refused_caps)
        self._catch_up(self._engines.not_continued, self._watched.not_continued)
        for url, in_flight in self._watched.in_flight.items():
            self._engines.running.labels(url).set(in_flight)
        for url, up in self._watched.up.items():
            self._engines.up.labels(url).set(up)
            # From the start, because Prometheus sees no increase in a counter that appears with its first one.
            self._engines.over_cap.labels(url)
            self._engines.refused_caps.labels(url)
            self._engines.not_continued.labels(url)
        available = self._watched.available
        for name in self._watched.checkpoints:
            self._engines.available.labels(name).set(name in available)

    def _catch_up(self, counter: Counter, totals: Mapping[str, int]) -> None:
        """Add to a counter what totals that are kept elsewhere have grown by."""
        for label, total in totals.items():
            counted = self._counted.get((id(counter), label), 0)
            counter.labels(label).inc(total - counted)
            self._counted[id(counter), label] = total

    def exposition(self) -> bytes:
        """The metrics of all workers, in Prometheus' text format."""
        self._refresh()
        if METRICS_DIRECTORY not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
        return generate_latest(registry)


@functools.cache  # prometheus_client takes a lock and makes a key for each look-up
def _labelled(metric: _Metric, *labels: str) -> _Metric:
    """The metric for these labels."""
    return metric.labels(*labels)
