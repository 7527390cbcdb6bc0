"""Should this engine be tried for this checkpoint now? A circuit breaker for one checkpoint on one engine.

    closed  --  FAILURES in a row  ->  open  --  after a pause  ->  half open: one trial request, then one per pause
      ^                                 ^                               |
      '--------- trial succeeds --------|---- trial fails, pause doubles

A failure is a response that never begins: no byte arrived in time, or the connection broke. An error response is not a
failure, whether the engine is busy, the request is invalid, or the engine crashed on it (500): it may be that request's
fault and must not block other requests. The module does no I/O; the caller passes the time.
"""

from __future__ import annotations

FAILURES = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Decides when requests may be sent. After each `begin`, call `record_failure`, call `cancel`, or drop the breaker.

    Success needs no method: the caller drops the breaker, and a new one starts closed.
    """

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._may_try_at = 0.0
        """On the caller's clock."""
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether a request may be sent."""
        return self._failures < FAILURES or now >= self._may_try_at

    def begin(self, now: float) -> None:
        """Note that a request is being sent. While the breaker is open, this request is the trial.

        The next trial is allowed after another pause even if this one is still running: a non-streaming response may
        take minutes.
        """
        if self._failures >= FAILURES:
            self._trying = True
            self._may_try_at = now + self._pause

    def record_failure(self, now: float) -> bool:
        """Note that no response began. Returns True if this failure opened the breaker."""
        was_trying, self._trying = self._trying, False
        self._failures += 1
        if was_trying:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if self._failures == FAILURES or was_trying:
            self._may_try_at = now + self._pause
        return self._failures == FAILURES

    def open(self, now: float) -> None:
        """Note a failure after which only trials make sense: the engine says that it cannot serve this."""
        self._failures = max(self._failures, FAILURES - 1)
        self.record_failure(now)

    def cancel(self) -> None:
        """Note that the caller left before the outcome was known. The next request may be the trial at once."""
        if self._trying:
            self._trying, self._may_try_at = False, 0.0
