from __future__ import annotations

import numpy as np
import pytest

from models.features import FEATURES, features_of


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
