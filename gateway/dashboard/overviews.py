"""Which overview does a page get? The one of a moment ago, computed once for all pages that are open.

An overview is computed when somebody asks and the last one is older than `REFRESH_SECONDS`, or `IDLE_TIMES` what it
took to compute. So a large ledger costs a small share of one processor, and nothing while nobody looks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway import errors
from gateway.dashboard.calculator import UnreachableError
from gateway.dashboard.figures import HOURS, Setting, Window
from gateway.dashboard.worker import Order
from gateway.errors import ApiError
from gateway.observe.health import health
from gateway.services import Services

log = logging.getLogger(__name__)

REFRESH_SECONDS = 5.0
IDLE_TIMES = 20
STALE_SECONDS = 60.0
"""For how long after it was due a page gets the old overview at once, while the next one is computed."""

Compute = Callable[[Order], Awaitable[str]]
"""Computes an overview, as `gateway.dashboard.calculator` does."""


@dataclass(frozen=True)
class Overview:
    """One overview, as it is sent."""

    computed: float
    """Unix seconds."""
    body: str
    """JSON in one line."""


class Overviews:
    """The latest overview of each window, in one process."""

    def __init__(self, services: Services, compute: Compute) -> None:
        self._services, self._do_compute = services, compute
        self._latest: dict[Window, tuple[float, Overview | ApiError]] = {}
        """By window: until when it is fresh, on the monotonic clock, and what is sent until then."""
        self._computing: dict[Window, asyncio.Task[None]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def get(self, window: Window) -> Overview:
        """The overview of a window.

        Raises:
            ApiError: 503, Redis is down.
        """
        due, latest = self._latest.get(window, (float("-inf"), None))
        late = time.monotonic() - due
        if late > 0:
            if (task := self._computing.get(window)) is None:
                task = self._computing[window] = asyncio.create_task(self._compute(window))
            if late > STALE_SECONDS or not isinstance(latest, Overview):
                await asyncio.shield(task)  # others wait for it, too
                _, latest = self._latest[window]
        if not isinstance(latest, Overview):
            raise latest or errors.internal()
        return latest

    async def aclose(self) -> None:
        """Compute no more."""
        for task in [*self._computing.values()]:
            task.cancel()
            await asyncio.wait([task])

    async def _compute(self, window: Window) -> None:
        try:
            async with self._one_at_a_time:
                began = time.monotonic()
                latest = await self._outcome(window)
                took = time.monotonic() - began
                # A failure costs nothing but waiting, however long it took: the next attempt may follow soon.
                times = IDLE_TIMES if isinstance(latest, Overview) else 0
                self._latest[window] = began + took + max(REFRESH_SECONDS, times * took), latest
        finally:
            del self._computing[window]

    async def _outcome(self, window: Window) -> Overview | ApiError:
        now, redis = time.time(), self._services.settings.redis
        assert redis is not None
        order = Order(redis, window, now - HOURS[window] * 3600, now, self._setting())
        try:
            return Overview(now, await self._do_compute(order))
        except UnreachableError as error:
            log.warning("there is no overview, because Redis does not answer: %s", error)
            message = "Redis, which holds the ledger, does not answer. Try again in a moment."
            return errors.unavailable(message, "store_unavailable")
        except Exception:
            log.exception("the overview cannot be computed")
            raise

    def _setting(self) -> Setting:
        services, settings = self._services, self._services.settings
        return Setting(
            family=services.family,
            keys=services.keyring.keys,
            quality_tolerance=_tolerance(services),
            quality_floor=settings.quality_floor,
            holdout_fraction=settings.holdout_fraction,
            health=health(services.engines, services.ledger, services.metrics, is_admin=True),
            prices=services.prices.current,
        )


def _tolerance(services: Services) -> float | None:
    """The tolerance in use: the one that is set, or that of what is certified for the quality floor."""
    if services.floor is None:
        return services.settings.quality_tolerance
    way = services.floor.way(may_escalate=True)
    return None if way is None else way.tolerance
