"""Which metrics are there? Their names, help texts, labels and buckets, by what they are about."""

from __future__ import annotations

from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

DecisionEvent = Literal["issued", "reported", "unreported"]
_LABELS = ("checkpoint", "decision")
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_DIFFICULTIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)


class RequestMetrics:
    """What requests were, spent and saved."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "laconic_requests", "Chat requests by HTTP status", (*_LABELS, "status"), registry=registry
        )
        self.reasoning = Counter("laconic_reasoning_tokens", "Reasoning tokens generated", _LABELS, registry=registry)
        # A gauge in spite of its `_total`, because the sum must be able to fall: a request may spend more than the
        # reference was expected to.
        self.saved = Gauge(
            "laconic_reasoning_tokens_saved_estimate_total",
            "Sum of the reasoning tokens expected of the reference checkpoint minus those generated",
            _LABELS,
            registry=registry,
            multiprocess_mode="sum",
        )
        self.first_token = Histogram(
            "laconic_time_to_first_token_seconds",
            "From a streaming request's arrival to the engine's first event",
            _LABELS,
            buckets=_FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            "laconic_overhead_seconds",
            "From a request's arrival until it is sent to an engine: the time the gateway itself takes",
            _LABELS,
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.difficulty = Histogram(
            "laconic_prompt_difficulty",
            "Difficulty of routed prompts: the share of the fitting prompts that are predicted to be easier",
            buckets=_DIFFICULTIES,
            registry=registry,
        )
        self.abstentions = Counter(
            "laconic_abstentions", "Requests whose prompt the profile could not judge", ("reason",), registry=registry
        )
        self.counting = Counter(
            "laconic_token_counts", "Successful requests, by who counted their tokens", ("counting",), registry=registry
        )


class EngineMetrics:
    """What engines do and what they cannot."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused_caps = Counter(
            "laconic_engine_refused_caps",
            "Requests that an engine refused because it cannot cap the thinking",
            ("engine",),
            registry=registry,
        )
        self.not_continued = Counter(
            "laconic_engine_not_continued",
            "Requests that an engine did not continue after the gateway had ended the thinking",
            ("engine",),
            registry=registry,
        )
        self.over_cap = Counter(
            "laconic_cap_breaches", "Requests whose engine thought beyond its cap", ("engine",), registry=registry
        )
        self.forced = Counter(
            "laconic_forced_budgets", "Requests whose thinking the gateway ended itself", ("engine",), registry=registry
        )
        gauges: Any = {"registry": registry}
        self.running = Gauge(
            "laconic_engine_requests", "Requests in flight", ("engine",), multiprocess_mode="sum", **gauges
        )
        gauges["multiprocess_mode"] = "min"
        self.up = Gauge("laconic_engine_up", "1 if the engine is up and serves a checkpoint", ("engine",), **gauges)
        self.available = Gauge(
            "laconic_checkpoint_available", "1 if an engine can serve the checkpoint", ("checkpoint",), **gauges
        )


class BackgroundMetrics:
    """What happens beside requests: the ledger, the limits, comparisons, decisions for others, the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.faults = Counter("laconic_background_faults", "Faults of background tasks", ("task",), registry=registry)
        self.shadows = Counter(
            "laconic_shadows", "Comparisons with the reference's answer, by outcome", ("outcome",), registry=registry
        )
        self.shadow_tokens = Counter(
            "laconic_shadow_tokens", "Tokens spent on comparisons only", ("by",), registry=registry
        )
        self.decisions = Counter(
            "laconic_decisions", "Decisions for other routers, by what became of them", ("event",), registry=registry
        )
        for event in get_args(DecisionEvent):  # from 0, because Prometheus sees no increase in what appears with it
            self.decisions.labels(event)
        gauges: Any = {"registry": registry, "multiprocess_mode": "sum"}
        self.spool = Gauge("laconic_ledger_spool_entries", "Ledger entries waiting for Redis", **gauges)
        self.unsafe = Gauge(
            "laconic_ledger_unsafe_entries", "Ledger entries in memory only, which a kill would lose", **gauges
        )
        self.lost = Counter("laconic_ledger_lost", "Ledger entries that were lost", registry=registry)
        self.reserved = Gauge("laconic_reserved_tokens", "Reasoning tokens reserved for running requests", **gauges)
        gauges["multiprocess_mode"] = "min"
        self.limits_checked = Gauge(
            "laconic_limits_store_up", "1 if Redis answers in time, so that limits are checked", **gauges
        )
        self.lag = Histogram(
            "laconic_event_loop_lag_seconds",
            "How late the event loop runs what is due, which all requests wait for",
            buckets=_LAG_SECONDS,
            registry=registry,
        )
