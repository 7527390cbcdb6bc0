"""Keys that are tried fast are refused slowly."""

from __future__ import annotations

import asyncio

from gateway.access import keys
from gateway.access.guesses import LONGEST_SECONDS, PER_SECOND, Guesses
from gateway.access.keys import Grant
from tests.gateway.fakes import EASY, Gateway


class Clock:
    """A clock that stands still unless a test moves it, and the waits that were asked for."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def test_a_single_wrong_key_is_refused_at_once() -> None:
    clock = Clock()
    guesses = Guesses(lambda: clock.now, clock.sleep)
    for _ in range(5):
        await guesses.refused()
        clock.now += 2 / PER_SECOND
    assert clock.waits == []


async def test_many_wrong_keys_are_refused_one_after_the_other_and_none_waits_for_long() -> None:
    clock = Clock()
    guesses = Guesses(lambda: clock.now, clock.sleep)
    for _ in range(1000):
        await guesses.refused()
    assert clock.waits == sorted(clock.waits)
    assert abs(clock.waits[0] - 1 / PER_SECOND) < 1e-9
    assert abs(clock.waits[-1] - LONGEST_SECONDS) < 1e-9
    clock.now += LONGEST_SECONDS + 1
    before = len(clock.waits)
    await guesses.refused()
    assert len(clock.waits) == before


async def test_wrong_keys_do_not_slow_down_a_right_one(gateway: Gateway) -> None:
    """Guesses wait for each other; a request with a key does not wait for them."""
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name="team-a"))
    await gateway.keyring.refresh()
    wrong = {"authorization": "Bearer sk-laconic-guess"}
    guesses = [asyncio.create_task(gateway.ask(EASY, headers=wrong)) for _ in range(80)]
    await asyncio.sleep(0.1)
    assert (await gateway.ask(EASY, headers={"authorization": f"Bearer {secret}"})).status_code == 200
    assert not all(guess.done() for guess in guesses)
    assert {(await guess).status_code for guess in guesses} == {401}
