"""Does a spreadsheet compute nothing that somebody wrote into a cell?"""

from __future__ import annotations

import csv
import io
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.table import csv_text


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_text_that_looks_like_a_formula_gets_an_apostrophe(text: str) -> None:
    (row,) = csv.DictReader(
        io.StringIO(csv_text([{"key": text, "cost": Decimal("-1.5")}], ["key", "cost"]), newline="")
    )
    assert row == {"key": f"'{text}", "cost": "-1.5"}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_any_text_is_one_cell_that_computes_nothing(text: str) -> None:
    content = csv_text([{"key": text, "tokens": 3}], ["key", "tokens"])
    (row,) = csv.DictReader(io.StringIO(content, newline=""))
    assert row["key"] in (text, f"'{text}")
    assert not row["key"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert row["tokens"] == "3"
