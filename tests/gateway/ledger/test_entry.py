"""What an entry of another version says, and which entries can save something."""

from __future__ import annotations

import json

import pytest

from gateway.ledger.entry import dump, parse
from gateway.ledger.savings import Totals, sum_totals, totals_of
from tests.gateway.entries import entry

NEW = ("answered", "counting", "over_cap")


def test_an_entry_of_an_older_version_is_an_answer_with_reported_figures() -> None:
    old = json.loads(dump(entry()))
    for name in NEW:
        del old[name]
    parsed = parse(json.dumps(old))
    assert (parsed.answered, parsed.counting, parsed.over_cap) == (True, "reported", False)
    assert totals_of(parsed).estimated == 1


def test_forecasts_of_an_older_version_have_no_answer_tokens() -> None:
    old = json.loads(dump(entry()))
    old["forecasts"] = {name: values[:3] for name, values in old["forecasts"].items()}
    assert parse(json.dumps(old)).forecasts == entry().forecasts


def test_an_entry_of_a_newer_version_is_read_without_what_is_unknown() -> None:
    newer = json.loads(dump(entry())) | {"a_field_of_next_year": [1]}
    assert parse(json.dumps(newer)).status == 200


def test_unknown_ways_of_counting_are_refused() -> None:
    other = json.loads(dump(entry())) | {"counting": "guessed"}
    with pytest.raises(ValueError, match="counting"):
        parse(json.dumps(other))


@pytest.mark.parametrize(
    ("status", "answered", "failed", "unanswered", "estimated"),
    [(200, True, 0, 0, 1), (200, False, 0, 1, 0), (502, True, 1, 0, 0), (499, False, 1, 0, 0)],
)
def test_only_an_answer_saves_anything(
    status: int, answered: bool, failed: int, unanswered: int, estimated: int
) -> None:
    totals = totals_of(entry(status=status, answered=answered, reasoning_tokens=0, reference_tokens=80.0))
    assert (totals.failed, totals.unanswered, totals.estimated) == (failed, unanswered, estimated)
    assert totals.saved_tokens == 80.0 * estimated
    assert totals.eligible == 1
    assert sum_totals([totals, Totals()]) == totals
