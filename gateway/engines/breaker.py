"""Is it worth asking again? A circuit breaker for one checkpoint on one engine; pure but for the clock it is given.

    closed  --  FAILURES in a row  ->  open  --  a pause  ->  half open: one request tries, after another pause one more
      ^                                 ^                          |
      '------------ it succeeds --------|------ it fails, and the pause doubles

What fails is an answer that does not begin: nothing came in time, or the connection broke. An engine that refuses,
being busy or the request being wrong, answers. So does one that fails on a request: that may be the request's fault,
and must not stop others.
"""

from __future__ import annotations

FAILURES = 3
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


class Breaker:
    """Every request that `begin`s ends in `failed`, or `left`, or in a success, after which a new one begins closed."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._may_try_at = 0.0
        """On the clock of the caller."""
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether a request may be sent."""
        return self._failures < FAILURES or now >= self._may_try_at

    def begin(self, now: float) -> None:
        """A request is sent; where it is open, it is the one that tries: alone, but a whole answer may take minutes."""
        if self._failures >= FAILURES:
            self._trying = True
            self._may_try_at = now + self._pause

    def failed(self, now: float) -> bool:
        """No answer has begun; true where this opens it."""
        was_trying, self._trying = self._trying, False
        self._failures += 1
        if was_trying:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if self._failures == FAILURES or was_trying:
            self._may_try_at = now + self._pause
        return self._failures == FAILURES

    def left(self) -> None:
        """The caller left before it was known; nothing is learned, and the next may try."""
        if self._trying:
            self._trying, self._may_try_at = False, 0.0
