"""When does the circuit breaker let a request through?"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.engines.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.begin(now)
        breaker.record_failure(now)
    return breaker


def test_the_breaker_opens_at_the_third_failure_in_a_row() -> None:
    breaker = Breaker()
    for last in (False, False, True):
        assert breaker.allows(0.0)
        breaker.begin(0.0)
        assert breaker.record_failure(0.0) is last
    assert not breaker.allows(0.0)


def test_after_a_pause_one_trial_request_is_allowed() -> None:
    breaker = opened()
    assert not breaker.allows(FIRST_PAUSE_SECONDS - 0.01)
    assert breaker.allows(FIRST_PAUSE_SECONDS)
    breaker.begin(FIRST_PAUSE_SECONDS)
    assert not breaker.allows(FIRST_PAUSE_SECONDS)


def test_a_slow_trial_blocks_others_for_only_one_more_pause() -> None:
    breaker = opened()
    breaker.begin(FIRST_PAUSE_SECONDS)
    assert not breaker.allows(2 * FIRST_PAUSE_SECONDS - 0.01)
    assert breaker.allows(2 * FIRST_PAUSE_SECONDS)


def test_the_pause_doubles_with_each_failed_trial_up_to_a_limit() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        began = now
        while not breaker.allows(now):
            now += 0.25
        pauses.append(now - began)
        breaker.begin(now)
        breaker.record_failure(now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert max(pauses) == LONGEST_PAUSE_SECONDS


def test_when_the_caller_of_a_trial_leaves_another_request_may_try() -> None:
    breaker = opened()
    breaker.begin(FIRST_PAUSE_SECONDS)
    breaker.cancel()
    assert breaker.allows(FIRST_PAUSE_SECONDS)


class BreakerMachine(RuleBasedStateMachine):
    """In any order of events, requests are blocked for no longer than the longest pause."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now, self.sent = Breaker(), 0.0, 0

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def send(self) -> None:
        self.breaker.begin(self.now)
        self.sent += 1

    @precondition(lambda self: self.sent > 0)
    @rule(end=st.sampled_from(["succeeded", "failed", "left"]))
    def end(self, end: str) -> None:
        self.sent -= 1
        if end == "failed":
            self.breaker.record_failure(self.now)
        elif end == "left":
            self.breaker.cancel()
        else:
            self.breaker = Breaker()

    @invariant()
    def allows_a_trial_within_the_longest_pause(self) -> None:
        assert self.breaker.allows(self.now + LONGEST_PAUSE_SECONDS)


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(max_examples=50)
