"""What does an operator see? Prometheus metrics, labelled by checkpoint and decision, and one log line a request.

No prompt and no answer in either. A request that was refused before a decision counts under `none`.
"""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.entry import Entry
from gateway.ledger import Ledger
from gateway.savings import totals_of

log = logging.getLogger("laconic.requests")

_LABELS = ("checkpoint", "decision")
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class Telemetry:
    """One gateway's metrics, in a registry of their own so that several gateways fit into one process."""

    def __init__(self, ledger: Ledger) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter(
            "laconic_requests", "Chat requests by HTTP status", (*_LABELS, "status"), registry=registry
        )
        self._reasoning = Counter("laconic_reasoning_tokens", "Reasoning tokens generated", _LABELS, registry=registry)
        # A gauge, for a request may spend more than was expected: the sum is honest only if it can fall.
        self._saved = Gauge(
            "laconic_reasoning_tokens_saved_estimate_total",
            "Reasoning tokens expected of the reference checkpoint minus those generated, summed",
            _LABELS,
            registry=registry,
        )
        self._first_token = Histogram(
            "laconic_time_to_first_token_seconds",
            "From the request's arrival to the engine's first event, streams only",
            _LABELS,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self._overhead = Histogram(
            "laconic_overhead_seconds",
            "From the request's arrival to its sending to an engine: what the gateway itself takes",
            _LABELS,
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        spool = Gauge("laconic_ledger_spool_entries", "Ledger entries waiting for Redis", registry=registry)
        spool.set_function(lambda: ledger.waiting)

    def refused(self, status: int) -> None:
        """A request that was answered before there was a decision."""
        self._requests.labels("none", "none", str(status)).inc()

    def settled(self, entry: Entry, overhead_seconds: float) -> None:
        """A request that is over."""
        labels = (entry.checkpoint, entry.decision)
        self._requests.labels(*labels, str(entry.status)).inc()
        self._reasoning.labels(*labels).inc(entry.reasoning_tokens)
        if (totals := totals_of(entry)).estimated:
            self._saved.labels(*labels).inc(totals.saved_tokens)
        if entry.first_token_seconds is not None:
            self._first_token.labels(*labels).observe(entry.first_token_seconds)
        self._overhead.labels(*labels).observe(overhead_seconds)
        log.info(
            "%s %s %s status=%d budget=%s prompt=%d reasoning=%d answer=%d seconds=%.3f%s",
            entry.id,
            entry.checkpoint,
            entry.decision,
            entry.status,
            "unlimited" if entry.budget is None else entry.budget,
            entry.prompt_tokens,
            entry.reasoning_tokens,
            entry.answer_tokens,
            entry.total_seconds,
            f" error={entry.error}" if entry.error else "",
        )

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
