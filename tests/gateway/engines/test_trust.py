from __future__ import annotations

from gateway.engines.trust import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Trust


def lost(at: float = 0.0) -> Trust:
    trust = Trust()
    assert not trust.begin(at)
    trust.record_breach(at)
    return trust


def test_an_engine_is_trusted_until_a_cap_does_not_hold() -> None:
    trust = Trust()
    assert trust.allows(0)
    assert not trust.begin(0)  # no trial
    trust.record_breach(0)
    assert trust.lost
    assert not trust.allows(FIRST_PAUSE_SECONDS - 1)


def test_after_a_pause_one_request_is_the_trial() -> None:
    trust = lost()
    assert trust.allows(FIRST_PAUSE_SECONDS)
    assert trust.begin(FIRST_PAUSE_SECONDS)
    assert not trust.allows(FIRST_PAUSE_SECONDS)
    assert trust.allows(2 * FIRST_PAUSE_SECONDS)  # even if the trial has no end


def test_a_trial_whose_cap_held_gives_the_trust_back() -> None:
    trust = lost()
    trust.begin(FIRST_PAUSE_SECONDS)
    trust.record_kept()
    assert not trust.lost
    assert trust.allows(0)


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    trust, now, pause = lost(), FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS
    for _ in range(10):
        assert trust.begin(now)
        trust.record_breach(now)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        assert not trust.allows(now + pause - 1)
        now += pause
        assert trust.allows(now)
    assert pause == LONGEST_PAUSE_SECONDS


def test_a_trial_that_showed_nothing_is_followed_by_another_at_once() -> None:
    trust = lost()
    trust.begin(FIRST_PAUSE_SECONDS)
    trust.cancel()
    assert trust.lost
    assert trust.allows(FIRST_PAUSE_SECONDS)


def test_requests_that_were_in_flight_at_the_breach_do_not_lengthen_the_pause() -> None:
    trust = lost()
    for _ in range(5):
        trust.record_breach(1)
    trust.cancel()  # none of them was a trial
    assert not trust.allows(FIRST_PAUSE_SECONDS - 1)
    assert trust.allows(FIRST_PAUSE_SECONDS)
