"""Does this engine keep its caps on thinking? A trust that a breach ends and a trial gives back.

    trusted  --  breach or refusal  ->  not trusted  --  after a pause  ->  one trial request, then one per pause
      ^                                     ^                                  |
      '----------- the cap ended the thinking in time -------|---- breach, the pause doubles

While an engine is not trusted, the gateway ends the thinking itself (`gateway.answer.forced`). It does so in a trial as
well, if the engine does not. A trial whose thinking ends before the cap shows nothing: the next request is another one.
The module does no I/O; the caller passes the time.
"""

from __future__ import annotations

FIRST_PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0


class Trust:
    """Decides whether an engine is asked to cap the thinking. After a trial, call one of the last three methods."""

    def __init__(self) -> None:
        self.lost = False
        """The engine did not keep or take a cap, and no trial has shown otherwise."""
        self._pause = FIRST_PAUSE_SECONDS
        self._may_try_at = 0.0
        """On the caller's clock."""
        self._trying = False

    def allows(self, now: float) -> bool:
        """Whether a request may rely on the engine's cap, or try it."""
        return not self.lost or now >= self._may_try_at

    def begin(self, now: float) -> bool:
        """Note that a request with a cap is being sent. Returns whether it is the trial.

        The next trial is allowed after another pause even if this one is still running.
        """
        if self.lost:
            self._trying = True
            self._may_try_at = now + self._pause
        return self.lost

    def record_breach(self, now: float) -> None:
        """Note that a cap was refused or did not hold."""
        if self._trying:
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if self._trying or not self.lost:
            self._may_try_at = now + self._pause
        self.lost, self._trying = True, False

    def record_kept(self) -> None:
        """Note that a trial's cap ended the thinking in time."""
        self.__init__()

    def cancel(self) -> None:
        """Note that a trial showed nothing. The next request may be another one at once."""
        if self._trying:
            self._trying, self._may_try_at = False, 0.0
