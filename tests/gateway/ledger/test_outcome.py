"""Is another router's request recorded as it was decided and reported, and does silence never look better?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.ledger.entry import Entry
from gateway.ledger.outcome import DECIDED, OTHER, Decided, Outcome, check, difference, reported, unreported
from gateway.ledger.savings import Savings, cell_of, compute_savings, totals_of
from gateway.request.conversation import Conversation
from models.prediction import Forecast
from tests.gateway.entries import entry

MOST = 1000
ARRIVED = 1_800_000_000.5


def decided(**changes: Any) -> Decided:
    """A decision for alpha-0.2, with `changes` to its entry."""
    of = unreported(entry(reasoning_tokens=0, answer_tokens=0, prompt_tokens=0, **changes), "litellm", MOST)
    conversation = Conversation("0" * 32, may_be_known=True)
    return Decided(
        of, ARRIVED + 1800, 50, MOST, reserved=64, money=0, team="", conversation=conversation, seconds=0.001
    )


def outcome_of(**changes: Any) -> Outcome:
    plain = {"model": "alpha-0.2", "prompt_tokens": 20, "reasoning_tokens": 40, "answer_tokens": 5}
    return Outcome(**(plain | changes))


def recorded(of: Decided, outcome: Outcome, checkpoint: str = "alpha-0.2", *, marked: bool = True) -> Entry:
    check(of, outcome)
    return reported(of, outcome, ARRIVED + 2.5, checkpoint=checkpoint, alpha=0.2, marked=marked)


def test_an_answer_is_recorded_like_the_gateways_own() -> None:
    of = decided()
    one = recorded(of, outcome_of(finish_reason="stop", cached_tokens=16))
    expected = entry(
        id=of.entry.id, cached_tokens=16, total_seconds=2.5, via="litellm", predicted_tokens=42.0
    )  # everything else is what an entry of the gateway's own has
    assert one == expected
    assert one.succeeded


def test_a_decision_without_an_outcome_is_assumed_and_answers_nothing() -> None:
    one = decided().entry
    assert (one.status, one.error, one.via, one.assumed) == (0, "unreported", "litellm", True)
    assert (one.is_reported, one.succeeded, one.reasoning_tokens) == (False, False, MOST)
    totals = totals_of(one)
    assert (totals.unreported, totals.failed, totals.unanswered, totals.assumed) == (1, 0, 0, 1)
    assert totals.saved_tokens == 80.0 - MOST


@given(
    holdout=st.booleans(),
    fraction=st.none() | st.sampled_from([0.0, 0.1]),
    expected=st.none() | st.floats(0, 2 * MOST),
    status=st.sampled_from([200, 400, 503]),
    tokens=st.tuples(st.integers(0, MOST), st.integers(0, MOST)),
)
def test_silence_never_looks_better_than_a_report(
    holdout: bool, fraction: float | None, expected: float | None, status: int, tokens: tuple[int, int]
) -> None:
    """Estimated savings are not higher, routed requests not shorter, and holdouts not longer."""
    reasoning, answer = tokens[0], min(tokens[1], MOST - tokens[0])
    of = decided(holdout=holdout, holdout_fraction=fraction, reference_tokens=expected)
    spoken = recorded(of, outcome_of(status=status, reasoning_tokens=reasoning, answer_tokens=answer))
    told, silent = totals_of(spoken), totals_of(of.entry)
    assert silent.saved_tokens <= told.saved_tokens
    assert silent.eligible_spent_tokens >= told.eligible_spent_tokens
    if holdout:
        assert of.entry.reasoning_tokens <= spoken.reasoning_tokens
    assert silent.eligible == told.eligible


def savings_of(sample: Sequence[Entry]) -> Savings:
    cells = [(cell_of(one), totals_of(one)) for one in sample]
    return compute_savings(cells, [one for one in sample if one.holdout])


def test_hiding_costly_requests_or_short_holdouts_makes_the_measured_savings_lower_and_then_unknown() -> None:
    rng = random.Random(0)
    told: list[tuple[Decided, Entry]] = []
    for number in range(2000):
        holdout = number % 10 == 0
        tokens = round(rng.lognormvariate(4.5 if holdout else 3.5, 0.4))
        of = decided(holdout=holdout, decision="holdout" if holdout else "routed")
        told.append((of, recorded(of, outcome_of(reasoning_tokens=min(tokens, MOST - 5)))))
    honest = savings_of([one for _, one in told]).total.measured
    assert honest is not None

    def measured(hidden: set[str]) -> float | None:
        total = savings_of([of.entry if of.entry.id in hidden else one for of, one in told]).total
        assert total.totals.unreported == len(hidden)
        return None if total.measured is None else total.measured.saved_tokens

    costly = sorted((one for _, one in told if not one.holdout), key=lambda one: -one.reasoning_tokens)
    short = sorted((one for _, one in told if one.holdout), key=lambda one: one.reasoning_tokens)
    for hidden in (costly[:20], costly[:90], short[:9]):
        assert (measured({one.id for one in hidden}) or 0.0) < honest.saved_tokens
    assert measured({one.id for one in costly[:150]}) is None
    assert measured({one.id for one in short[:20]}) is None


def test_who_answers_instead_is_recorded_on_the_side_that_was_drawn() -> None:
    """By intention to treat: neither side gets rid of what went wrong with it."""
    forecasts = {"base": Forecast(0.95, 80.0, 80.0), "alpha-0.2": Forecast(0.94, 42.0, 42.0)}
    of = decided(forecasts=forecasts)
    one = recorded(of, outcome_of(model="base", reasoning_tokens=90), "base")
    assert (one.decision, one.checkpoint, one.choice, one.holdout) == ("fallback", "base", "alpha-0.2", False)
    assert (one.predicted_tokens, totals_of(one).saved_tokens) == (80.0, -10.0)
    of = decided(decision="holdout", checkpoint="base", choice="alpha-0.2", holdout=True)
    one = recorded(of, outcome_of(model="gpt-5"), OTHER)
    assert (one.decision, one.checkpoint, one.holdout, one.predicted_tokens) == ("fallback", OTHER, True, None)
    assert (totals_of(one).holdout, totals_of(one).eligible) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "answered"),
    [({}, True), ({"answer_tokens": 0}, False), ({"status": 502}, False), ({"answer_tokens": 1}, True)],
)
def test_without_an_answer_nothing_is_saved(changes: dict[str, Any], answered: bool) -> None:
    one = recorded(decided(), outcome_of(**changes))
    assert (one.answered, totals_of(one).estimated) == (answered, int(answered))


def test_several_choices_need_an_answer_each() -> None:
    assert not recorded(decided(choices=3), outcome_of(answer_tokens=2)).answered
    assert recorded(decided(choices=3), outcome_of(answer_tokens=3)).answered


def test_thinking_beyond_the_cap_is_noted() -> None:
    assert [recorded(decided(), outcome_of(reasoning_tokens=tokens)).over_cap for tokens in (50, 58, 70)] == [
        False, False, True,
    ]  # fmt: skip


def test_a_family_without_marks_counts_every_token_as_reasoning() -> None:
    one = recorded(decided(), outcome_of(), marked=False)
    assert (one.reasoning_tokens, one.answer_tokens, one.answered) == (45, 0, True)
    assert difference(one, outcome_of(), checkpoint="alpha-0.2", marked=False) is None


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("status", {"status": 204}),
        ("status", {"status": 399}),
        ("prompt_tokens", {"prompt_tokens": 0}),
        ("cached_tokens", {"cached_tokens": 21}),
        ("reasoning_tokens", {"reasoning_tokens": MOST + 1}),
        ("answer_tokens", {"reasoning_tokens": MOST, "answer_tokens": 1}),
    ],
)
def test_what_the_request_cannot_have_is_named(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=f"^{field}: ") as refused:
        check(decided(), outcome_of(**changes))
    assert refused.value.param == field


def test_a_failure_needs_no_tokens() -> None:
    check(decided(), outcome_of(status=503, prompt_tokens=0, reasoning_tokens=0, answer_tokens=0))


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("status", {"status": 500}),
        ("finish_reason", {"finish_reason": "length"}),
        ("prompt_tokens", {"prompt_tokens": 21}),
        ("cached_tokens", {"cached_tokens": 0}),
        ("reasoning_tokens", {"reasoning_tokens": 41}),
        ("answer_tokens", {"answer_tokens": 6}),
        (None, {}),
    ],
)
def test_another_outcome_is_told_from_the_same_one(field: str | None, changes: dict[str, Any]) -> None:
    one = recorded(decided(), outcome_of())
    assert difference(one, outcome_of(**changes), checkpoint="alpha-0.2", marked=True) == field
    assert difference(one, outcome_of(), checkpoint="base", marked=True) == "model"


def test_a_decision_is_the_same_after_it_was_stored() -> None:
    of = replace(decided(), conversation=None)
    assert DECIDED.validate_json(DECIDED.dump_json(of)) == of
    assert DECIDED.validate_json(DECIDED.dump_json(decided())).conversation == Conversation("0" * 32, may_be_known=True)
