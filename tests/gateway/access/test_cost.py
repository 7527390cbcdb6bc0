"""Do costs add up exactly, whatever they are grouped by, and is what is reserved never too little?"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.access.cost import BILLIONTHS, TRILLIONTHS, Price, Spent, billionths, cost, most, parts

prices = st.builds(Price, *[st.integers(0, 10**9)] * 4)
tokens = st.integers(0, 10**6)


@st.composite
def spent(draw: st.DrawFn) -> Spent:
    prompt = draw(tokens)
    return Spent(prompt, draw(st.integers(0, prompt)), draw(tokens), draw(tokens))


def test_each_kind_of_token_has_its_price() -> None:
    assert cost(Price(3, 1, 7, 5), Spent(prompt=100, cached=40, reasoning=20, answer=10)) == 180 + 40 + 140 + 50


@given(prices, st.lists(spent(), max_size=5))
def test_the_cost_of_a_sum_is_the_sum_of_the_costs(price: Price, several: list[Spent]) -> None:
    total = Spent(*map(sum, zip(*several, strict=True))) if several else Spent()
    assert cost(price, total) == sum(cost(price, one) for one in several)


@given(spent(), tokens, tokens)
def test_an_escalation_s_parts_are_the_request_and_the_prompt_once_more(
    whole: Spent, reasoning: int, answer: int
) -> None:
    own, first = parts("base", whole, "alpha-0.4", reasoning, answer)
    assert (own.checkpoint, own.repeats, first.checkpoint, first.repeats) == ("base", False, "alpha-0.4", True)
    assert own.spent.reasoning + first.spent.reasoning == whole.reasoning
    assert own.spent.answer + first.spent.answer == whole.answer
    assert min(*own.spent, *first.spent) >= 0
    assert (own.spent.prompt, own.spent.cached) == (whole.prompt, whole.cached)
    assert (first.spent.prompt, first.spent.cached) == (whole.prompt, 0)
    assert [part.spent for part in parts("base", whole)] == [whole]


@given(prices, st.data())
def test_the_most_that_a_request_may_cost_is_no_less_than_what_it_costs(price: Price, data: st.DataObject) -> None:
    longest, generated = data.draw(tokens), data.draw(tokens)
    thinking = data.draw(st.integers(0, generated))
    prompt, reasoning = data.draw(st.integers(0, longest)), data.draw(st.integers(0, thinking))
    answer = data.draw(st.integers(0, generated - reasoning))
    used = Spent(prompt, data.draw(st.integers(0, prompt)), reasoning, answer)
    assert cost(price, used) <= most([price], longest, generated, thinking)


@given(st.integers(0, 10**24))
def test_an_amount_is_rounded_up(trillionths: int) -> None:
    rounded = billionths(trillionths)
    step = TRILLIONTHS // BILLIONTHS
    assert trillionths <= rounded * step < trillionths + step
