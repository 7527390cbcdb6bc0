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


@given(st.text().filter(lambda text: not text or text[-1] not in "smhdw"))
def test_a_text_without_a_unit_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s"):
        duration.seconds(text)


@pytest.mark.parametrize("text", ["h", "-1h", "1e3s", "infs", "1 h", "１h", "9999999999d"])  # noqa: RUF001
def test_a_text_without_a_plain_number_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration.seconds(text)
