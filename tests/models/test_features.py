from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import features
from models.features import FEATURES, counts_of, features_of


def test_factors_of_a_product_are_recognised_in_every_notation() -> None:
    at = FEATURES.index("digits_to_multiply")
    for text in (
        "12*34",
        "12 * 34",
        "12 x 34",
        "12×34",  # noqa: RUF001
        "12 times 34",
        "the product of 12 and 34",
        "Multiply 12 by 34.",
    ):
        assert np.expm1(features_of(text, ()))[at] == pytest.approx(4), text
    for text in ("12 + 34", "Find x: x + 12 = 34", "12 and 34", "12 by 34"):
        assert features_of(text, ())[at] == 0, text


@given(st.text(st.characters(max_codepoint=127)) | st.text("ab12 .,x*_(\t\x1c"))
def test_a_prompt_in_ascii_is_read_by_bytes_as_it_is_by_characters(prompt: str) -> None:
    lower = prompt.lower()
    assert features._ascii_parts(prompt, lower) == features._parts(prompt, lower)


@given(
    st.lists(
        st.sampled_from(
            [
                "12",
                "3",
                "times",
                "TIMES",
                "x",
                "*",
                "product-of",
                "Multiply",
                "multiplied-by",
                "and",
                "byproduct-of",
                "what",
            ]
        )
    )
)
def test_products_are_found_by_the_quick_search_as_by_the_full_one(parts: list[str]) -> None:
    """A prompt with a letter beyond ASCII is searched in full; a word more changes no product."""
    prompt, at = " ".join(parts).replace("-", " "), FEATURES.index("digits_to_multiply")
    assert counts_of(prompt, ())[at] == counts_of(prompt + " é", ())[at]
