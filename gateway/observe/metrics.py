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
from typing import Any, Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from gateway import supervision
from gateway.access.limits import Limiter
from gateway.engines.pool import Engines
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger
from gateway.ledger.savings import totals_of
from gateway.observe.lag import LoopLag
from gateway.observe.quality import QualityGauges
from gateway.supervision import BackgroundTask

log = logging.getLogger("laconic.requests")

METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, set if there are several workers: the directory of their metrics files."""
REFRESH_SECONDS = 1.0
WARNING_SECONDS = 60.0
_LABELS = ("checkpoint", "decision")
DecisionEvent = Literal["issued", "reported", "unreported"]
_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_DIFFICULTIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class Metrics:
    """One gateway's metrics, in their own registry, so that several gateways can run in one process."""

    def __init__(self, *, ledger: Ledger, limiter: Limiter, engines: Engines, worker: int = 0) -> None:
        """`worker` tells processes apart whose metrics are shown together: the first one measures the quality."""
        self._ledger, self._limiter, self._engines = ledger, limiter, engines
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "laconic_requests", "Chat requests by HTTP status", (*_LABELS, "status"), registry=registry
        )
        self._reasoning = Counter("laconic_reasoning_tokens", "Reasoning tokens generated", _LABELS, registry=registry)
        # A gauge in spite of its `_total`, because the sum must be able to fall: a request may spend more than the
        # reference was expected to.
        self._saved = Gauge(
            "laconic_reasoning_tokens_saved_estimate_total",
            "Sum of the reasoning tokens expected of the reference checkpoint minus those generated",
            _LABELS,
            registry=registry,
            multiprocess_mode="sum",
        )
        self._first_token = Histogram(
            "laconic_time_to_first_token_seconds",
            "From a streaming request's arrival to the engine's first event",
            _LABELS,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._overhead = Histogram(
            "laconic_overhead_seconds",
            "From a request's arrival until it is sent to an engine: the time the gateway itself takes",
            _LABELS,
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self._difficulty = Histogram(
            "laconic_prompt_difficulty",
            "Difficulty of routed prompts: the share of the fitting prompts that are predicted to be easier",
            buckets=_DIFFICULTIES,
            registry=registry,
        )
        self._abstentions = Counter(
            "laconic_abstentions", "Requests whose prompt the profile could not judge", ("reason",), registry=registry
        )
        self._faults = Counter("laconic_background_faults", "Faults of background tasks", ("task",), registry=registry)
        self._refused_caps = Counter(
            "laconic_engine_refused_caps",
            "Requests that an engine refused because it cannot cap the thinking",
            ("engine",),
            registry=registry,
        )
        self._not_continued = Counter(
            "laconic_engine_not_continued",
            "Messages that an engine did not continue behind a thinking that the gateway had ended",
            ("engine",),
            registry=registry,
        )
        self._counted: dict[tuple[int, str], int] = {}
        """What has been added to these counters: by counter and label."""
        self._over_cap = Counter(
            "laconic_cap_breaches", "Requests whose engine thought beyond its cap", ("engine",), registry=registry
        )
        self.over_cap: dict[str, int] = {}
        """How many requests thought beyond their cap since the start, by engine URL, for those that ever did."""
        self._warned: dict[str, float] = {}
        self._forced = Counter(
            "laconic_forced_budgets", "Requests whose thinking the gateway ended itself", ("engine",), registry=registry
        )
        self._counting = Counter(
            "laconic_token_counts", "Requests by whose their token counts are", ("counting",), registry=registry
        )
        self._shadows = Counter(
            "laconic_shadows", "Comparisons with the reference's answer, by outcome", ("outcome",), registry=registry
        )
        self._shadow_tokens = Counter(
            "laconic_shadow_tokens", "Tokens spent on comparisons only", ("by",), registry=registry
        )
        self._decisions = Counter(
            "laconic_decisions", "Decisions for other routers, by what became of them", ("event",), registry=registry
        )
        for event in get_args(DecisionEvent):  # from 0, because Prometheus sees no increase in what appears with it
            self._decisions.labels(event)
        gauges: Any = {"registry": registry, "multiprocess_mode": "sum"}
        self._spool = Gauge("laconic_ledger_spool_entries", "Ledger entries waiting for Redis", **gauges)
        self._unsafe = Gauge(
            "laconic_ledger_unsafe_entries", "Ledger entries in memory only, which a kill would lose", **gauges
        )
        self._lost = Counter("laconic_ledger_lost", "Ledger entries that were lost", registry=registry)
        self._lost_before = 0
        self._reserved = Gauge("laconic_reserved_tokens", "Reasoning tokens reserved for running requests", **gauges)
        self._running = Gauge("laconic_engine_requests", "Requests in flight", ("engine",), **gauges)
        lag = Histogram(
            "laconic_event_loop_lag_seconds",
            "How late the event loop runs what is due, which all requests wait for",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
        self._lag = LoopLag(lag.observe)
        self._quality = QualityGauges(ledger, registry) if worker == 0 else None
        gauges["multiprocess_mode"] = "min"
        self._up = Gauge("laconic_engine_up", "1 if the engine is up and serves a checkpoint", ("engine",), **gauges)
        self._available = Gauge(
            "laconic_checkpoint_available", "1 if an engine can serve the checkpoint", ("checkpoint",), **gauges
        )
        self._limits_checked = Gauge(
            "laconic_limits_store_up", "1 if Redis answers in time, so that limits are checked", **gauges
        )

    def record_refusal(self, status: int) -> None:
        """Record a request that was refused before a decision."""
        self._requests.labels("none", "none", str(status)).inc()
        log.info("request refused", extra={"fields": {"status": status}})

    def record(self, entry: Entry, overhead_seconds: float) -> None:
        """Record a request that has ended."""
        labels = (entry.checkpoint, entry.decision)
        _labelled(self._requests, *labels, str(entry.status)).inc()
        _labelled(self._reasoning, *labels).inc(entry.reasoning_tokens)
        _labelled(self._counting, entry.counting).inc()
        if (totals := totals_of(entry)).estimated:
            _labelled(self._saved, *labels).inc(totals.saved_tokens)
        if entry.first_token_seconds is not None:
            _labelled(self._first_token, *labels).observe(entry.first_token_seconds)
        _labelled(self._overhead, *labels).observe(overhead_seconds)
        if entry.difficulty is not None and entry.holdout_fraction is not None:
            self._difficulty.observe(entry.difficulty)
        if entry.abstention != "none":
            _labelled(self._abstentions, entry.abstention).inc()
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
        self._forced.labels(engine).inc()

    def record_shadow(self, outcome: str, reference_tokens: int = 0, judge_tokens: int = 0) -> None:
        """Record a shadow comparison, or that one was skipped, with the tokens that it cost."""
        self._shadows.labels(outcome).inc()
        self._shadow_tokens.labels("reference").inc(reference_tokens)
        self._shadow_tokens.labels("judge").inc(judge_tokens)

    def record_decision(self, event: DecisionEvent) -> None:
        """Record a decision for another router, or that its outcome has come or never will."""
        self._decisions.labels(event).inc()

    def record_over_cap(self, engine: str, entry: Entry, cap: int | None) -> None:
        """Record that an engine thought beyond its cap, and warn about it at most once a minute for each engine."""
        self._over_cap.labels(engine).inc()
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
        self._spool.set(self._ledger.pending)
        self._unsafe.set(self._ledger.in_memory)
        self._lost.inc(self._ledger.lost - self._lost_before)
        self._lost_before = self._ledger.lost
        self._reserved.set(self._limiter.reserved)
        self._limits_checked.set(self._limiter.healthy)
        self._catch_up(self._faults, supervision.faults)
        self._catch_up(self._refused_caps, self._engines.refused_caps)
        self._catch_up(self._not_continued, self._engines.not_continued)
        for url, in_flight in self._engines.in_flight.items():
            self._running.labels(url).set(in_flight)
        for url, up in self._engines.up.items():
            self._up.labels(url).set(up)
            # From the start, because Prometheus sees no increase in a counter that appears with its first one.
            self._over_cap.labels(url)
            self._refused_caps.labels(url)
            self._not_continued.labels(url)
        available = self._engines.available
        for name in self._engines.checkpoints:
            self._available.labels(name).set(name in available)

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
