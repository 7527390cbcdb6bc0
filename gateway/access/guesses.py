"""How fast may callers try keys? Refusals are slowed down as they become many, whoever they go to.

Somebody who tries keys as fast as they are refused costs the gateway as much as a caller who is served. A single wrong
key is refused at once. Beyond that, refusals leave one after the other, `PER_SECOND` of them a second, and none waits
longer than `LONGEST_SECONDS`. Requests with a valid key are never slowed down.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

PER_SECOND = 50.0
LONGEST_SECONDS = 2.0


class Guesses:
    """Slows refusals down."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self._next = 0.0
        """When the next refusal may leave."""

    async def refused(self) -> None:
        """Wait until a refusal may leave."""
        now = self._clock()
        due = max(now, self._next)
        self._next = min(due + 1 / PER_SECOND, now + LONGEST_SECONDS)
        if due > now:
            await self._sleep(due - now)
