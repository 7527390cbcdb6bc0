"""How late does the event loop run what is due? Everything else of this process waits as long.

A timer asks every 50 ms how late it is. A thread looks at that timer, and if it is overdue for long, the log says
which code the loop is in: file, line and function, never a value.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

log = logging.getLogger("laconic")

PERIOD_SECONDS = 0.05
STALL_SECONDS = 0.1
"""From how late on it is a stall, which is logged."""
LOOK_SECONDS = 0.1
"""How often the thread looks. A stall of `PERIOD_SECONDS` more than the sum of both is always seen."""
WARNING_SECONDS = 60.0
"""How long further stalls are only counted."""
MAX_FRAMES = 4


class LoopLag:
    """Measures one event loop, from `start` to `stop`."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        """`observe` is called with each lateness, in seconds."""
        self._observe = observe
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Measure the running loop."""
        self._loop = asyncio.get_running_loop()
        self._schedule()
        threading.Thread(target=self._look, args=[threading.get_ident()], name="event loop lag", daemon=True).start()

    def stop(self) -> None:
        """Stop measuring."""
        self._stopped.set()
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        self._due = time.monotonic() + PERIOD_SECONDS
        self._timer = self._loop.call_later(PERIOD_SECONDS, self._tick)

    def _tick(self) -> None:
        self._observe(max(0.0, time.monotonic() - self._due))
        self._schedule()

    def _look(self, thread: int) -> None:
        """Log where the loop's thread is while its timer is overdue."""
        quiet_until = 0.0
        while not self._stopped.wait(LOOK_SECONDS):
            now = time.monotonic()
            if (late := now - self._due) < STALL_SECONDS or now < quiet_until:
                continue
            if (frame := sys._current_frames().get(thread)) is None:  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
                return  # the loop's thread has ended
            quiet_until = now + WARNING_SECONDS
            frames = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=MAX_FRAMES, lookup_lines=False)
            where = " < ".join(f"{one.name} ({one.filename}:{one.lineno})" for one in frames)
            log.warning("the event loop is %.0f ms late, and all requests wait: it is in %s", late * 1e3, where)
