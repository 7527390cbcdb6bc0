"""Which durations are accepted?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1h", 1_800_000_000 - 3600),
        ("9999w", 0),
        ("2027-01-15", 1_799_971_200),
        ("2027-01-15T08:00", 1_800_000_000),
        ("2027-01-15T08:00Z", 1_800_000_000),
        ("2027-01-15T10:00:00+02:00", 1_800_000_000),
        ("1969-12-31", 0),
    ],
)
def test_a_moment_is_a_duration_before_now_or_a_time(text: str, moment: float) -> None:
    assert duration.moment(text, 1_800_000_000.0) == moment


@given(st.text())
def test_what_is_no_moment_is_rejected_in_one_line(text: str) -> None:
    said = ""
    try:
        assert duration.moment(text, 0.0) >= 0
    except ValueError as error:
        said = str(error)
    assert not said or "is not a moment such as 24h" in said
    assert "\n" not in said


@given(st.text().filter(lambda text: not text or text[-1] not in "smhdw"))
def test_a_text_without_a_unit_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s"):
        duration.seconds(text)


@pytest.mark.parametrize("text", ["h", "-1h", "1e3s", "infs", "1 h", "１h", "9999999999d"])  # noqa: RUF001
def test_a_text_without_a_plain_number_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration.seconds(text)
