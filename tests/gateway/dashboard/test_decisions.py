"""Is a past decision explained by what it was based on, and made again as the rule would make it?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dashboard import decisions
from gateway.ledger.entry import Entry
from gateway.ledger.replay import Replay
from models.family import Family
from models.prediction import Forecast
from tests.gateway.dashboard.books import TOLERANCE, week
from tests.gateway.entries import entries, entry


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "cheapest that is good enough: success 0.940 for 42 tokens, best 0.950 (base)"),
        ({"conversation": "kept"}, "the conversation keeps its checkpoint: success 0.940"),
        ({"decision": "holdout", "checkpoint": "base", "choice": "alpha-0.2"}, "instead of alpha-0.2"),
        ({"decision": "fallback", "checkpoint": "base", "choice": "alpha-0.2"}, "alpha-0.2 was chosen, and no engine"),
        ({"decision": "pinned"}, "the caller named this checkpoint"),
        ({"decision": "abstained", "abstention": "unfamiliar", "forecasts": {}}, "unlike what the profile was fitted"),
        ({"decision": "abstained", "abstention": "unreadable", "forecasts": {}}, "the prompt cannot be read"),
        ({"decision": "none", "forecasts": {}}, "it ended before a decision"),
    ],
)
def test_each_kind_of_decision_has_its_reason(changes: dict[str, object], words: str) -> None:
    assert words in decisions.reason(entry(**changes))


@given(st.lists(entries(), max_size=8), st.floats(0, 1))
def test_any_entries_can_be_shown(sample: list[Entry], tolerance: float) -> None:
    shown = decisions.last_decisions(sample)
    assert [one["id"] for one in shown] == [one.id for one in sample]
    assert all(one["reason"] for one in shown)
    tried = decisions.what_if(sample, tolerance)
    assert tried["requests"] <= len(sample)
    assert tolerance in [one["tolerance"] for one in tried["tolerances"]]


def test_the_latest_fifty_are_shown() -> None:
    sample = [entry() for _ in range(60)]
    assert [one["id"] for one in decisions.last_decisions(sample)] == [one.id for one in sample[:50]]


def test_only_an_answer_of_the_second_checkpoint_is_an_escalation() -> None:
    pair = {"choice": "alpha-0.4>base@10%"}
    sample = [entry(checkpoint="alpha-0.4", **pair), entry(checkpoint="base", **pair), entry(checkpoint="base")]
    assert [one["escalated"] for one in decisions.last_decisions(sample)] == [False, True, False]


def test_what_failed_or_was_not_routed_saved_nothing() -> None:
    sample = [entry(), entry(status=502), entry(decision="pinned", holdout_fraction=None)]
    assert [one["saved_tokens"] for one in decisions.last_decisions(sample)] == [40.0, None, None]


def test_where_the_reference_serves_everything_no_tolerance_is_in_use(family: Family) -> None:
    tried = decisions.what_if(week(family, 1_800_000_000.0, 20), None)
    assert tried["set"] is None
    assert [one["tolerance"] for one in tried["tolerances"]] == sorted(decisions.TOLERANCES)


def test_what_if_is_the_replay(family: Family) -> None:
    sample = week(family, 1_800_000_000.0, 300)
    tried = decisions.what_if(sample, TOLERANCE)
    replay = Replay(0.1)
    for one in sample:
        replay.add(one)
    (found,) = (one for one in tried["tolerances"] if one["tolerance"] == 0.1)
    assert tried["requests"] == replay.requests > 200
    assert found["tokens"] == replay.replayed.tokens
    assert found["choices"] == dict(replay.replayed.choices)
    assert found["success"] == replay.replayed.success / replay.requests
    (same,) = (one for one in tried["tolerances"] if one["tolerance"] == TOLERANCE)
    assert same["choices"] == tried["recorded"]["choices"]


def test_the_frontier_compares_all_checkpoints_on_the_same_requests(family: Family) -> None:
    names = {"base": Forecast(0.9, 100.0, 100.0), "alpha-0.1": Forecast(0.8, 60.0, 60.0)}
    all_of_them = names | {"alpha-0.4": Forecast(0.7, 20.0, 20.0)}
    sample = [
        entry(forecasts=all_of_them, choice="alpha-0.1"),
        entry(forecasts=all_of_them, choice="alpha-0.4"),
        entry(forecasts=names, choice="base"),  # its key may not use alpha-0.4
        entry(forecasts={}, decision="abstained", holdout_fraction=None),
    ]
    shown = decisions.frontier(sample, family)
    assert shown["requests"] == 2
    points = {one["name"]: (one["tokens"], one["success"]) for one in shown["points"]}
    assert points["auto"] == (40.0, pytest.approx(0.75))
    assert points["base"] == (100.0, pytest.approx(0.9))
    assert next(one for one in shown["points"] if one["name"] == "base")["measured"]["accuracy"]["mean"] == 0.9


def test_breaches_of_caps_are_counted() -> None:
    sample = [entry(budget=50, over_cap=True), entry(budget=50), entry(), entry(status=502)]
    assert decisions.recent(sample) == {"requests": 4, "capped": 2, "over_cap": 1, "failed": 1}
