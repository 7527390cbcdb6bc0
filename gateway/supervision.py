"""What keeps a background task alive? A fault is logged and counted, and after a pause the task goes on.

Every task that lives as long as the gateway is a `BackgroundTask`. Without one, an exception that nobody expected would
end the task silently, and surface when the gateway stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable

log = logging.getLogger("laconic")

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 10.0
"""How long a cancelled task may take to end before the gateway stops without it."""
CANCEL_AGAIN_SECONDS = 1.0
"""When a task that has not ended is cancelled once more: before Python 3.12, `asyncio.wait_for` may lose a
cancellation, and redis-py sends every command under one."""

faults: dict[str, int] = {}
"""By task, how often it has failed in this process."""
_logged: set[tuple[str, str, str]] = set()
"""The faults that the log has in full: task, type and place."""


class BackgroundTask:
    """Runs a coroutine function until it returns or is stopped, and starts it again after a fault."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], about: str = "") -> None:
        """Start it. `name` is the metric's label; `about` tells tasks of that name apart."""
        self._name, self._run = name, run
        self._finishing = asyncio.Event()
        self._stopped = False
        self._task = asyncio.create_task(self._keep_running(), name=f"{name} {about}".rstrip())

    async def stop(self) -> None:
        """Cancel it, and return when it has ended. A fault of the task is not raised."""
        self._stopped = True
        deadline = asyncio.get_running_loop().time() + STOP_SECONDS
        while not self._task.done():
            if (left := deadline - asyncio.get_running_loop().time()) <= 0:
                log.error("the task %s does not stop; the gateway stops without it", self._task.get_name())
                return
            self._task.cancel()
            await asyncio.wait([self._task], timeout=min(left, CANCEL_AGAIN_SECONDS))

    async def finish(self) -> None:
        """Return when it has returned by itself, which the caller has told it to do. A fault of the task is not raised.

        If it fails meanwhile, it is started once more.
        """
        self._finishing.set()
        await asyncio.wait([self._task])

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = loop.time()
            last = self._finishing.is_set()
            failed = await guard(self._name, self._run())
            if not failed or last or self._stopped:
                return
            if loop.time() - began > LONGEST_PAUSE_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._finishing.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


async def guard(name: str, work: Awaitable[None]) -> bool:
    """Wait for some work. Returns True if it failed: the fault is logged and counted, not raised."""
    try:
        await work
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        record_fault(name, error)  # something that it waited for was cancelled, not the task itself
    except Exception as error:  # noqa: BLE001  whatever it is, the gateway goes on
        record_fault(name, error)
    else:
        return False
    return True


def record_fault(name: str, error: BaseException) -> None:
    """Count a fault, and log it with its traceback if it is the first of its kind.

    The error's message is left out, because it may quote a prompt or an engine.
    """
    faults[name] = faults.get(name, 0) + 1
    frames = traceback.format_tb(error.__traceback__)
    kind = type(error).__name__
    if (fault := (name, kind, frames[-1] if frames else "")) in _logged:
        log.debug("%s failed again: %s", name, kind)
        return
    _logged.add(fault)
    log.error("%s failed with %s; it goes on. The log has this fault once:\n%s", name, kind, "".join(frames).rstrip())
