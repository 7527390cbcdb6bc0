"""Is what is reserved for a request never less than what it can cost?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.cost import Price, Spent, billionths, parts
from gateway.access.keys import Grant
from gateway.access.money import TEMPLATE_TOKENS, Lengths, billed, charge_for, lengths, team_limits
from gateway.access.prices import MoneyLimits, PriceList
from gateway.access.state import LimitState, amount, least_limit

PRICES = PriceList(
    "USD",
    {"base": Price(300_000, 30_000, 900_000, 600_000), "alpha-0.4": Price(100_000, 10_000, 500_000, 700_000)},
    teams={"research": MoneyLimits(per_month=10**9)},
)
TEXT = {"messages": [{"role": "user", "content": "How much?"}]}


def grant(**more: Any) -> Grant:
    return Grant(**{"name": "a", **more})


@given(
    size=st.integers(0, 3000),
    max_tokens=st.none() | st.integers(1, 5000),
    budget=st.none() | st.integers(0, 5000),
    choices=st.integers(1, 4),
)
def test_nothing_is_longer_than_the_context(
    size: int, max_tokens: int | None, budget: int | None, choices: int
) -> None:
    found = lengths(TEXT, size, context=2048, max_tokens=max_tokens, budget=budget, choices=choices)
    assert found.prompt == min(2048, size + TEMPLATE_TOKENS)
    assert found.generated == choices * min(2048, max_tokens or 2048)
    assert found.reasoning == choices * min(2048, max_tokens or 2048, 2048 if budget is None else budget)


@pytest.mark.parametrize(
    ("content", "longest"),
    [
        ("text", 1034),
        (None, 1034),
        ([{"type": "text", "text": "a"}], 1034),
        ([{"type": "image_url", "image_url": {"url": "https://a"}}], 4096),
        ([{"text": "a"}], 4096),
    ],
)
def test_a_prompt_with_more_than_text_may_fill_the_context(content: Any, longest: int) -> None:
    body = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": content}]}
    assert lengths(body, 10, context=4096, max_tokens=1, budget=None, choices=1).prompt == longest


@given(st.data())
def test_a_charge_covers_every_route_and_both_checkpoints_of_an_escalation(data: st.DataObject) -> None:
    most = Lengths(1000, 500, 300)
    routes = data.draw(st.lists(st.sampled_from([("base",), ("alpha-0.4",), ("alpha-0.4", "base")]), min_size=1))
    charge = charge_for(grant(money_per_day=5), PRICES, most, routes)
    route = data.draw(st.sampled_from(routes))
    prompt, reasoning = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 300))
    spent = Spent(prompt, data.draw(st.integers(0, prompt)), reasoning, data.draw(st.integers(0, 500 - reasoning)))
    first = (route[0], data.draw(st.integers(0, 300)), data.draw(st.integers(0, 200))) if len(route) > 1 else ("", 0, 0)
    assert billed(parts(route[-1], spent, *first), PRICES) <= charge.most


def test_the_dearest_route_counts() -> None:
    long = Lengths(1000, 500, 300)
    routes = [("alpha-0.4",), ("base",), ("alpha-0.4", "base")]
    alone, dear, both = (charge_for(grant(money_per_day=5), PRICES, long, [route]).most for route in routes)
    assert alone < dear < both == alone + dear
    assert charge_for(grant(money_per_day=5), PRICES, long, routes).most == both


def test_limits_are_those_of_the_key_and_of_its_team() -> None:
    routes = [("base",)]
    charge = charge_for(grant(team="research", money_per_day=2.5), PRICES, Lengths(1, 1, 1), routes)
    assert (charge.key_limits, charge.team) == (MoneyLimits(per_day=2_500_000_000), "research")
    assert charge.team_limits == MoneyLimits(per_month=10**9)
    assert charge_for(grant(team="sales"), PRICES, Lengths(1, 1, 1), routes).team == ""
    assert not team_limits(grant(), PRICES)


def test_a_request_that_alone_passes_a_limit_is_told_which() -> None:
    long = Lengths(10**7, 1, 1)
    mine = charge_for(grant(money_per_day=1), PRICES, long, [("base",)])
    assert least_limit(mine) == ("money_per_day", 10**9)
    ours = charge_for(grant(team="research"), PRICES, long, [("base",)])
    assert least_limit(ours) == ("research's per_month", 10**9)
    assert least_limit(charge_for(grant(money_per_month=9), PRICES, long, [("base",)])) is None


@pytest.mark.parametrize(
    ("billions", "text"),
    [(0, "0.00"), (10**9, "1.00"), (1_500_000_000, "1.50"), (1, "0.000000001"), (12 * 10**9, "12.00")],
)
def test_amounts_have_two_decimals_or_as_many_as_they_need(billions: int, text: str) -> None:
    assert amount(billions) == text


def test_a_bill_is_rounded_up_once() -> None:
    price = PriceList("USD", {"base": Price(1, 1, 1, 1)})
    assert billed(parts("base", Spent(prompt=3), "base", 0, 0), price) == billionths(6) == 1


@pytest.mark.parametrize(
    ("now", "ends"), [(1_735_689_590.0, 10.0), (1_709_164_800.0, 86_400.0), (1_733_011_200.0, 31 * 86_400.0)]
)
def test_a_month_ends_with_its_last_day(now: float, ends: float) -> None:
    assert LimitState(now, "", 0, 0, 0, 0, int(now // 60)).month_ends == ends
