"""Does a key never spend more than its limit in any window, whatever gateways, leases and Redis' clock do?"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gateway.access import windows
from tests.conftest import RedisServer

MINUTE_LIMIT, DAY_LIMIT = 50, 120
DAY = 86_400
MIDNIGHT = 20_000.0 * DAY
KEYS = [key.format("team-a") for key in windows.KEYS]
LIMITS = {"max_requests": 1000, "max_minute_tokens": MINUTE_LIMIT, "max_day_tokens": DAY_LIMIT}


class Script:
    """The script with a clock of the test's own."""

    def __init__(self, server: RedisServer) -> None:
        self._client = server.client
        self._run = server.client.register_script(windows.SCRIPT)
        self._client.flushall()

    def __call__(self, now: float, kind: str, lease: str, **op: Any) -> tuple[str, dict[str, int]]:
        """Run one operation. Returns which limit refused it, and the counts."""
        ops = json.dumps([{"kind": kind, "lease": lease, "tokens": int(lease.split(":")[1]), **op}])
        durations = [
            windows.LEASE_SECONDS, windows.REMEMBER_SETTLED_SECONDS, windows.STATE_SECONDS, windows.WILD_DAYS,
        ]  # fmt: skip
        _, (refused, *counts) = self._run(keys=KEYS, args=[ops, *durations, now])  # type: ignore[misc]
        names = ("requests", "minute_tokens", "day_tokens", "reserved", "minute")
        return refused, dict(zip(names, counts, strict=True))

    def reserve(self, now: float, lease: str) -> tuple[str, dict[str, int]]:
        return self(now, "reserve", lease, **LIMITS)

    def settle(self, now: float, lease: str, spent: int) -> dict[str, int]:
        return self(now, "settle", lease, spent=spent)[1]


@pytest.fixture
def script(redis_server: RedisServer) -> Script:
    return Script(redis_server)


def test_a_clock_that_goes_back_over_midnight_admits_a_full_key_no_second_time(script: Script) -> None:
    for number in range(2):
        at = MIDNIGHT + 100 + 60 * number
        script.reserve(at, f"r{number}:50")
        script.settle(at, f"r{number}:50", 50)
    refused, counts = script.reserve(MIDNIGHT - 3600, "r2:1")
    assert (refused, counts["minute_tokens"]) == ("minute_tokens", 50), "the minute that Redis had reached goes on"
    assert counts["minute"] == MIDNIGHT // 60 + 2
    assert script.reserve(MIDNIGHT + 200, "r3:21")[0] == "day_tokens"
    assert script.reserve(MIDNIGHT - DAY, "r4:21")[0] == "day_tokens"
    assert script.reserve(MIDNIGHT + DAY, "r5:50")[0] == ""


def test_a_window_more_than_two_days_ahead_becomes_the_clock_s_and_keeps_its_counts(script: Script) -> None:
    script.reserve(MIDNIGHT + 365 * DAY, "r1:50")
    script.settle(MIDNIGHT + 365 * DAY, "r1:50", 40)
    script.reserve(MIDNIGHT + 365 * DAY, "r2:10")
    refused, counts = script.reserve(MIDNIGHT + 30, "r3:1")
    assert (refused, counts["minute"]) == ("minute_tokens", MIDNIGHT // 60)
    refused, counts = script.reserve(MIDNIGHT + 90, "r4:40")
    assert (refused, counts["day_tokens"], counts["reserved"]) == ("", 40, 50)
    _, counts = script.reserve(MIDNIGHT + 30 + windows.LEASE_SECONDS + 1, "r5:1")
    assert (counts["minute_tokens"], counts["reserved"]) == (10, 40), "the lease of before the jump has expired"


def test_a_reservation_that_comes_after_its_settlement_is_not_made(script: Script) -> None:
    """Nobody waited for it any more: the settlement overtook it on another connection."""
    script.settle(MIDNIGHT, "r1:50", 0)
    _, counts = script.reserve(MIDNIGHT + 1, "r1:50")
    assert counts["reserved"] == 0
    script(MIDNIGHT + 2, "renew", "r2:30")
    _, counts = script.reserve(MIDNIGHT + 3, "r2:30")
    assert counts["reserved"] == 30, "what the renewal has taken is not taken again"


def test_a_charge_is_corrected_only_while_its_window_runs(script: Script) -> None:
    script.reserve(MIDNIGHT + 10, "r1:50")
    _, counts = script.reserve(MIDNIGHT + 10 + windows.LEASE_SECONDS + 1, "r2:1")
    assert (counts["minute_tokens"], counts["day_tokens"], counts["reserved"]) == (50, 50, 0)
    counts = script.settle(MIDNIGHT + 300, "r1:50", 20)
    assert (counts["minute_tokens"], counts["day_tokens"]) == (0, 20)
    script.reserve(MIDNIGHT + DAY - 200, "r3:50")
    counts = script.settle(MIDNIGHT + DAY + 1, "r4:1", 0)
    assert (counts["day_tokens"], counts["reserved"]) == (0, 0), "it was charged yesterday"
    assert script.settle(MIDNIGHT + DAY + 2, "r3:50", 50)["day_tokens"] == 0, "and counts there"


@dataclass
class Running:
    """A request that was admitted."""

    lease: str
    tokens: int
    expires: float
    windows: tuple[int, int] | None = None
    """The minute and day in which its lease expired."""
    settled: bool = False


class Gateways(RuleBasedStateMachine):
    """Any number of gateways that reserve, renew, settle, freeze and die, with a clock that jumps both ways."""

    server: RedisServer
    requests = Bundle("requests")

    @initialize()
    def begin(self) -> None:
        self.script = Script(self.server)
        self.now, self.latest = MIDNIGHT + 12 * 3600.0, 0.0
        self.count = 0
        self.running: list[Running] = []
        self.spent: defaultdict[int, int] = defaultdict(int)
        self.counts: dict[str, int] = {"minute_tokens": 0, "day_tokens": 0, "reserved": 0}

    @rule(seconds=st.sampled_from([0.5, 20.0, 61.0, 119.0, 121.0, 3600.0, 13 * 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([1.0, 61.0, 3600.0, 13 * 3600.0]))
    def the_clock_goes_back(self, seconds: float) -> None:
        if self.now - seconds > self.latest - windows.WILD_DAYS * DAY:
            self.now -= seconds

    @rule(target=requests, tokens=st.integers(1, 30))
    def a_request_comes(self, tokens: int) -> Any:
        self._windows()
        lease = f"r{self.count}:{tokens}"
        self.count += 1
        refused, self.counts = self.script.reserve(self.now, lease)
        if refused:
            return multiple()
        self.running.append(request := Running(lease, tokens, self.now + windows.LEASE_SECONDS))
        return request

    @rule(request=requests)
    def a_lease_is_renewed(self, request: Running) -> None:
        self._windows()
        _, self.counts = self.script(self.now, "renew", request.lease)
        if request.windows is None and not request.settled:
            request.expires = self.now + windows.LEASE_SECONDS

    @rule(request=consumes(requests), share=st.floats(0, 1), twice=st.booleans())
    def a_request_ends(self, request: Running, share: float, twice: bool) -> None:
        """Perhaps long after its lease expired: its gateway was frozen, or Redis away."""
        self._windows()
        spent = round(share * request.tokens)
        for _ in range(1 + twice):
            self.counts = self.script.settle(self.now, request.lease, spent)
        request.settled = True
        for window in request.windows or self._current():
            self.spent[window] += spent

    @invariant()
    def no_window_is_exceeded(self) -> None:
        assert self.counts["minute_tokens"] + self.counts["reserved"] <= MINUTE_LIMIT
        assert self.counts["day_tokens"] + self.counts["reserved"] <= DAY_LIMIT
        assert min(self.counts.values()) >= 0

    def teardown(self) -> None:
        """What still runs may spend all it reserved, in the window in which its lease expires."""
        if not hasattr(self, "script"):
            return
        self.now = max(self.now, self.latest) + DAY
        self._windows()
        for request in self.running:
            if not request.settled:
                for window in request.windows or ():
                    self.spent[window] += request.tokens
        for window, spent in self.spent.items():
            assert spent <= (MINUTE_LIMIT if window > MIDNIGHT // 3600 else DAY_LIMIT), window

    def _current(self) -> tuple[int, int]:
        return int(self.latest // 60), int(self.latest // DAY)

    def _windows(self) -> None:
        """Before an operation: leases whose time has come expire in the latest window of then."""
        for request in self.running:
            if not request.settled and request.windows is None:
                request.expires = min(request.expires, self.now + windows.LEASE_SECONDS)
                if request.expires <= self.now:
                    at = max(self.latest, request.expires)
                    request.windows = (int(at // 60), int(at // DAY))
        self.latest = max(self.latest, self.now)


def test_no_window_is_exceeded_whatever_happens(redis_server: RedisServer) -> None:
    machine = type("GatewaysOfThisTest", (Gateways,), {"server": redis_server})
    run = settings(max_examples=150, stateful_step_count=40)
    machine.TestCase.settings = run
    machine.TestCase("runTest").runTest()
