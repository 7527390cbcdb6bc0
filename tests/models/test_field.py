from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from models.field import MOST, one_line


@given(st.text(st.characters(), max_size=1000))
def test_any_text_fits_in_one_printable_line(text: str) -> None:
    line = one_line(text)
    assert len(line) <= MOST
    assert line.isprintable()
    assert "\n" not in line


def test_short_text_stays_as_it_is() -> None:
    assert one_line("checkpoints.0.name") == "checkpoints.0.name"
    assert one_line("two\nlines \x1b[31m") == "two lines ?[31m"
    assert one_line("x" * 1_000_000).endswith("x...")
