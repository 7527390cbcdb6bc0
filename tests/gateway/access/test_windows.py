"""Does a key never spend more than its limit in any window, whatever gateways, leases and Redis' clock do?"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from gateway.access import windows
from tests.conftest import RedisServer

MINUTE_LIMIT, DAY_LIMIT, MONTH_LIMIT = 50, 120, 200
DAY = 86_400
MIDNIGHT = 20_000.0 * DAY
MONTH_END = 20_028.0 * DAY
"""The end of October 2024."""
KEYS = [key.format("team-a") for key in windows.KEYS]
TEAM_KEYS = [key.format(windows.TEAM.format("research")) for key in windows.KEYS]
LIMITS = {"requests": 1000, "minute_tokens": MINUTE_LIMIT, "day_tokens": DAY_LIMIT}
ACCOUNTS = [LIMITS, {"month_money": MONTH_LIMIT}]
"""Of a key, and of its team. In the machine below a token costs one."""


class Script:
    """The script with a clock of the test's own."""

    def __init__(self, server: RedisServer) -> None:
        self.client = server.client
        self._run = server.client.register_script(windows.SCRIPT)
        self.clear()

    def clear(self) -> None:
        self.client.flushall()

    def __call__(self, now: float, kind: str, lease: str, **op: Any) -> tuple[str, dict[str, int]]:
        """Run one operation on the key's account. Returns which limit refused it, and the counts."""
        refused, _, counts = self.accounts(now, kind, lease, **{"accounts": [{}], **op})
        return refused, counts[0]

    def accounts(self, now: float, kind: str, lease: str, **op: Any) -> tuple[str, int, list[dict[str, int]]]:
        """Run one operation on the accounts of a key and perhaps its team. Returns also which of them refused it."""
        _, tokens, *money = lease.split(":")
        held = {"tokens": int(tokens), **({"money": int(money[0])} if money else {})}
        ops = json.dumps([{"kind": kind, "lease": lease, **held, **op}])
        durations = [
            windows.LEASE_SECONDS, windows.REMEMBER_SETTLED_SECONDS, windows.STATE_SECONDS, windows.WILD_DAYS,
            windows.MONTH_SECONDS,
        ]  # fmt: skip
        keys = [*KEYS, *TEAM_KEYS][: 4 * len(op["accounts"])]
        _, (refused, by, *counts) = self._run(keys=keys, args=[ops, *durations, now])  # type: ignore[misc]
        names = (
            *("requests", "minute_tokens", "day_tokens", "reserved", "minute"),
            *("day_money", "month_money", "reserved_money"),
        )
        return refused, by, [dict(zip(names, one, strict=True)) for one in counts]

    def reserve(self, now: float, lease: str) -> tuple[str, dict[str, int]]:
        return self(now, "reserve", lease, accounts=[LIMITS])

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


def month(at: float) -> int:
    """A number of the month, which is no minute's and no day's."""
    when = datetime.fromtimestamp(at, UTC)
    return -(when.year * 12 + when.month)


def windows_of(at: float) -> tuple[int, int, int]:
    """The minute, the day and the month."""
    return int(at // 60), int(at // DAY), month(at)


def test_a_reservation_is_made_for_key_and_team_or_for_neither(script: Script) -> None:
    accounts = [{"day_money": 100}, {"month_money": 150}]
    assert script.accounts(MIDNIGHT, "reserve", "r1:0:90", accounts=accounts)[0] == ""
    refused, by, (key, team) = script.accounts(MIDNIGHT, "reserve", "r2:0:20", accounts=accounts)
    assert (refused, by, key["reserved_money"], team["reserved_money"]) == ("day_money", 1, 90, 90)
    script.accounts(MIDNIGHT, "settle", "r1:0:90", accounts=[{}, {}], spent=0, cost=80)
    more = [{}, {"month_money": 150}]  # another key of the team
    refused, by, (key, team) = script.accounts(MIDNIGHT, "reserve", "r3:0:71", accounts=more)
    assert (refused, by, key["reserved_money"]) == ("month_money", 2, 0)
    assert (key["requests"], team["requests"]) == (1, 1), "a refused request is in neither count"
    assert script.accounts(MIDNIGHT, "reserve", "r4:0:70", accounts=more)[0] == ""


def test_money_of_an_expired_lease_is_charged_and_given_back_while_the_month_runs(script: Script) -> None:
    accounts = [{"month_money": 100}]
    script.accounts(MIDNIGHT, "reserve", "r1:5:90", accounts=accounts)
    later = MIDNIGHT + windows.LEASE_SECONDS + 1
    _, _, (counts,) = script.accounts(later, "reserve", "r2:0:1", accounts=accounts)
    assert (counts["month_money"], counts["day_money"], counts["day_tokens"]) == (90, 90, 5)
    tomorrow = MIDNIGHT + DAY + 10
    _, _, (counts,) = script.accounts(tomorrow, "settle", "r1:5:90", accounts=[{}], spent=2, cost=30)
    assert (counts["month_money"], counts["day_money"]) == (31, 0), "r2 was charged yesterday, too"


@given(one=st.floats(0, 1.2e10), other=st.floats(0, 1.2e10))
@example(one=951_782_399.0, other=951_782_400.0)  # 28 and 29 February 2000
@example(one=4_107_542_399.0, other=4_107_542_400.0)  # 28 February and 1 March 2100
@example(one=1_735_689_599.0, other=1_735_689_600.0)  # the turn of a year
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_money_of_a_month_counts_until_its_end(script: Script, one: float, other: float) -> None:
    script.clear()
    earlier, later = sorted((one, other))
    for at, lease in ((earlier, "r1:0:40"), (later, "r2:0:2")):
        script.accounts(at, "reserve", lease, accounts=[{"month_money": 1000}])
        _, _, (counts,) = script.accounts(at, "settle", lease, accounts=[{}], spent=0, cost=int(lease[5:]))
    assert counts["month_money"] == (42 if month(earlier) == month(later) else 2)
    assert counts["day_money"] == (42 if int(earlier // DAY) == int(later // DAY) else 2)


def test_a_month_s_money_is_remembered_as_long_as_the_month(script: Script) -> None:
    script.accounts(MIDNIGHT, "settle", "r1:0:5", accounts=[{}], spent=0, cost=5)
    assert script.client.ttl(KEYS[0]) > 31 * DAY
    state, leases, settled, charged = KEYS
    script.reserve(MIDNIGHT, "r2:5")
    script.reserve(MIDNIGHT + windows.LEASE_SECONDS + 1, "r3:5")
    assert min(map(script.client.ttl, (state, leases, charged))) > 31 * DAY, "the leases as long as their sum"
    assert 0 < script.client.ttl(settled) <= windows.STATE_SECONDS
    script.clear()
    script.reserve(MIDNIGHT, "r4:5")
    assert 0 < script.client.ttl(state) <= windows.STATE_SECONDS, "without money of the month"


def test_a_lease_left_open_blocks_no_limit_once_it_is_forgotten(script: Script) -> None:
    accounts = [{"month_money": 100}]
    script.accounts(MIDNIGHT, "settle", "r1:0:5", accounts=[{}], spent=0, cost=5)
    script.accounts(MIDNIGHT, "reserve", "r2:7:90", accounts=accounts)
    script.client.delete(KEYS[1])
    later = MIDNIGHT + 3 * DAY
    refused, _, (counts,) = script.accounts(later, "reserve", "r3:0:95", accounts=accounts)
    assert (refused, counts["reserved"], counts["reserved_money"]) == ("", 0, 95)


@dataclass
class Running:
    """A request that was admitted."""

    lease: str
    tokens: int
    expires: float
    windows: tuple[int, int, int] | None = None
    """The minute, day and month in which its lease expired."""
    settled: bool = False


class Gateways(RuleBasedStateMachine):
    """Any number of gateways that reserve, renew, settle, freeze and die, with a clock that jumps both ways."""

    server: RedisServer
    requests = Bundle("requests")

    @initialize()
    def begin(self) -> None:
        self.script = Script(self.server)
        self.now, self.latest = MONTH_END - 12 * 3600.0, 0.0
        self.count = 0
        self.running: list[Running] = []
        self.spent: defaultdict[int, int] = defaultdict(int)
        self.counts: dict[str, int] = {"minute_tokens": 0, "day_tokens": 0, "reserved": 0}
        self.team: dict[str, int] = {"month_money": 0, "reserved_money": 0}

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
        lease = f"r{self.count}:{tokens}:{tokens}"
        self.count += 1
        if self._run("reserve", lease, accounts=ACCOUNTS):
            return multiple()
        self.running.append(request := Running(lease, tokens, self.now + windows.LEASE_SECONDS))
        return request

    @rule(request=requests)
    def a_lease_is_renewed(self, request: Running) -> None:
        self._windows()
        self._run("renew", request.lease, accounts=[{}, {}])
        if request.windows is None and not request.settled:
            request.expires = self.now + windows.LEASE_SECONDS

    @rule(request=consumes(requests), share=st.floats(0, 1), twice=st.booleans())
    def a_request_ends(self, request: Running, share: float, twice: bool) -> None:
        """Perhaps long after its lease expired: its gateway was frozen, or Redis away."""
        self._windows()
        spent = round(share * request.tokens)
        for _ in range(1 + twice):
            self._run("settle", request.lease, accounts=[{}, {}], spent=spent, cost=spent)
        request.settled = True
        for window in request.windows or self._current():
            self.spent[window] += spent

    @invariant()
    def no_window_is_exceeded(self) -> None:
        assert self.counts["minute_tokens"] + self.counts["reserved"] <= MINUTE_LIMIT
        assert self.counts["day_tokens"] + self.counts["reserved"] <= DAY_LIMIT
        assert self.team["month_money"] + self.team["reserved_money"] <= MONTH_LIMIT
        assert min(*self.counts.values(), *self.team.values()) >= 0

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
            limit = MONTH_LIMIT if window < 0 else MINUTE_LIMIT if window > MIDNIGHT // 3600 else DAY_LIMIT
            assert spent <= limit, window

    def _run(self, kind: str, lease: str, **op: Any) -> str:
        refused, _, (self.counts, self.team) = self.script.accounts(self.now, kind, lease, **op)
        return refused

    def _current(self) -> tuple[int, int, int]:
        return windows_of(self.latest)

    def _windows(self) -> None:
        """Before an operation: leases whose time has come expire in the latest window of then."""
        for request in self.running:
            if not request.settled and request.windows is None:
                request.expires = min(request.expires, self.now + windows.LEASE_SECONDS)
                if request.expires <= self.now:
                    at = max(self.latest, request.expires)
                    request.windows = windows_of(at)
        self.latest = max(self.latest, self.now)


def test_no_window_is_exceeded_whatever_happens(redis_server: RedisServer) -> None:
    machine = type("GatewaysOfThisTest", (Gateways,), {"server": redis_server})
    run = settings(max_examples=150, stateful_step_count=40)
    machine.TestCase.settings = run
    machine.TestCase("runTest").runTest()
