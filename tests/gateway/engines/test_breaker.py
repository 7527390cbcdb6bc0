from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.engines.breaker import FAILURES, FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Breaker


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.begin(now)
        breaker.failed(now)
    return breaker


def test_it_opens_at_the_third_failure_in_a_row() -> None:
    breaker = Breaker()
    for last in (False, False, True):
        assert breaker.allows(0.0)
        breaker.begin(0.0)
        assert breaker.failed(0.0) is last
    assert not breaker.allows(0.0)


def test_after_a_pause_one_request_tries_it() -> None:
    breaker = opened()
    assert not breaker.allows(FIRST_PAUSE_SECONDS - 0.01)
    assert breaker.allows(FIRST_PAUSE_SECONDS)
    breaker.begin(FIRST_PAUSE_SECONDS)
    assert not breaker.allows(FIRST_PAUSE_SECONDS)


def test_a_try_that_takes_long_shuts_others_out_for_another_pause_only() -> None:
    breaker = opened()
    breaker.begin(FIRST_PAUSE_SECONDS)
    assert not breaker.allows(2 * FIRST_PAUSE_SECONDS - 0.01)
    assert breaker.allows(2 * FIRST_PAUSE_SECONDS)


def test_the_pause_doubles_while_tries_fail_and_has_an_end() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(8):
        began = now
        while not breaker.allows(now):
            now += 0.25
        pauses.append(now - began)
        breaker.begin(now)
        breaker.failed(now)
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert max(pauses) == LONGEST_PAUSE_SECONDS


def test_a_try_whose_caller_leaves_is_anothers() -> None:
    breaker = opened()
    breaker.begin(FIRST_PAUSE_SECONDS)
    breaker.left()
    assert breaker.allows(FIRST_PAUSE_SECONDS)


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, nothing is shut out for longer than the longest pause."""

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
            self.breaker.failed(self.now)
        elif end == "left":
            self.breaker.left()
        else:
            self.breaker = Breaker()

    @invariant()
    def opens_again(self) -> None:
        assert self.breaker.allows(self.now + LONGEST_PAUSE_SECONDS)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=50)
