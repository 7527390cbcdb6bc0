"""Does routing cost quality now? Gauges of the difference in score, measured once a minute over a week.

One worker measures for all, because all read the same scores.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time

from prometheus_client import CollectorRegistry, Gauge
from redis.exceptions import RedisError

from gateway.ledger import feedback
from gateway.ledger.ledger import Ledger, read_cells
from gateway.ledger.quality import Estimate, compute_quality
from gateway.supervision import BackgroundTask

WINDOW_SECONDS = 7 * 86_400.0
REFRESH_SECONDS = 60.0


class QualityGauges:
    """The gauges by source of scores. A source without a measurement has NaN, which no alert rule fires on."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        names = {
            "difference": "Mean score of routed requests minus that of the holdout, over the last week",
            "difference_low": "Lower end of the 95 % interval of laconic_quality_difference",
            "difference_high": "Upper end of the 95 % interval of laconic_quality_difference",
        }
        self._ends = [
            Gauge(f"laconic_quality_{name}", text, ("source",), registry=registry, multiprocess_mode="mostrecent")
            for name, text in names.items()
        ]
        self._scores = Gauge(
            "laconic_quality_scores",
            "Scored requests of the last week, by side of the draw",
            ("source", "arm"),
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self._sources: set[str] = set()

    def start(self) -> None:
        """Measure regularly from now on."""
        self._task = BackgroundTask("quality", self._keep_measuring)

    async def aclose(self) -> None:
        """Stop measuring."""
        await self._task.stop()

    async def measure(self) -> None:
        """Measure now.

        Raises:
            RedisError, OSError: Redis is down.
        """
        since = time.time() - WINDOW_SECONDS
        scores = await feedback.read_scores(self._ledger.redis, since)
        cells = await read_cells(self._ledger.redis, since) if scores else []
        # In a thread, because streams must not wait for it.
        quality = await asyncio.to_thread(compute_quality, cells, scores, since_hour=int(since // 3600))
        for source in self._sources - quality.sources.keys():
            self._forget(source)
        for source, estimate in quality.sources.items():
            self._show(source, estimate)
        self._sources = set(quality.sources)

    async def _keep_measuring(self) -> None:
        while True:
            with contextlib.suppress(RedisError, OSError):  # the ledger says so
                await self.measure()
            await asyncio.sleep(REFRESH_SECONDS)

    def _show(self, source: str, estimate: Estimate) -> None:
        for gauge, value in zip(self._ends, (estimate.difference, estimate.low, estimate.high), strict=True):
            gauge.labels(source).set(math.nan if value is None else value)
        for arm, scores in (("routed", estimate.routed.scores), ("holdout", estimate.holdout.scores)):
            self._scores.labels(source, arm).set(scores)

    def _forget(self, source: str) -> None:
        """Show that the source has no scores any more. Labels stay: files that workers share keep them anyway."""
        for gauge in self._ends:
            gauge.labels(source).set(math.nan)
        for arm in ("routed", "holdout"):
            self._scores.labels(source, arm).set(0)
