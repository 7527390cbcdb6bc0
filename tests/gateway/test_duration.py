from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import duration


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert duration.seconds(text) == seconds


@given(st.text().filter(lambda text: not text or text[-1] not in "smhdw"))
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no time like 90s"):
        duration.seconds(text)


@pytest.mark.parametrize("text", ["h", "-1h", "1e3s", "infs", "1 h", "１h", "9999999999d"])  # noqa: RUF001
def test_a_unit_alone_is_not_enough(text: str) -> None:
    with pytest.raises(ValueError, match="is no time"):
        duration.seconds(text)
