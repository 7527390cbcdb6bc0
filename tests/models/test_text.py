"""What is seen of a text: each feature counts what its name says, in finite numbers, for any text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import TEXT, ngrams_of, text_of

SHARES = ("other_scripts",)


def feature(name: str, prompt: str) -> float:
    value = float(text_of(prompt)[TEXT.index(name)])
    return value if name in SHARES else round(float(np.expm1(value)), 6)


@pytest.mark.parametrize(
    ("name", "prompt", "expected"),
    [
        ("characters", "abc", 3),
        ("words", "How many are 3 and 4?", 4),
        ("sentences", "One. Two! Three? 3.5 is no end", 3),
        ("words_a_sentence", "One two. Three four.", 2),
        ("letters_a_word", "ab abcd", 3),
        ("long_words", "a reasonable question", 2),
        ("different_words", "The the THE cat", 2),
        ("last_sentence", "First one. Why?", 5),
        ("last_sentence", "No end", 6),
        ("numbers", "1,000 and 2.5 and 7", 3),
        ("different_numbers", "7 and 7 and 8", 2),
        ("longest_number", "12 and 1,234", 5),
        ("decimals", "2.5 and 3", 1),
        ("percents", "20% of 5%", 2),
        ("money", "$3, 4 € and £5", 3),
        ("questions", "Why? How?", 2),
        ("lines", "one\ntwo\n", 2),
        ("choices", "Which?\nA) one\nB. two\n(C) three\nD three", 3),
        ("items", "- one\n* two\nthree", 2),
        ("commands", r"\frac{1}{2} + \sqrt{3}", 2),
        ("calls", "print(f(x))", 2),
        ("backticks", "`x` and ```", 5),
        ("capitals", "Ann sees NASA", 2),
        ("other_scripts", "вопрос word", 0.5),
        ("asks_for_a_number", "How many remaining?", 2),
        ("negations", "Do not, never", 2),
        ("code", "def f(): return 1", 2),
    ],
)
def test_a_feature_counts_what_its_name_says(name: str, prompt: str, expected: float) -> None:
    assert feature(name, prompt) == expected


@given(st.text())
def test_any_text_has_finite_features(prompt: str) -> None:
    features = text_of(prompt)
    assert features.shape == (len(TEXT),)
    assert np.isfinite(features).all()
    assert (features >= 0).all()


@pytest.mark.parametrize("pattern", ["a", "1,", "- ", "\\a", ". ", "A) ", "\n ", "(", "ab ", "\ud800"])
def test_a_long_text_is_read(pattern: str) -> None:
    """In quadratic time this would take hours."""
    text = pattern * 500_000
    assert feature("characters", text) == len(text)
    ngrams_of(text, 64)


def test_words_and_pairs_of_words_fall_into_buckets() -> None:
    buckets, weights = ngrams_of("The cat, the CAT", 2**16)
    assert len(buckets) == len(weights) == 4, "the, cat, the cat, cat the"
    assert float(weights @ weights) == pytest.approx(1)
    assert sorted(np.round(weights / weights.min(), 3)) == [1, 1.693, 1.693, 1.693]
    again, same = ngrams_of("the cat the cat", 2**16)
    assert (buckets == again).all()
    assert (weights == same).all()
    assert not len(ngrams_of("123 !", 64)[0])


@given(st.text(), st.integers(1, 2**16))
def test_buckets_are_in_range(prompt: str, count: int) -> None:
    buckets, weights = ngrams_of(prompt, count)
    assert len(set(buckets.tolist())) == len(buckets) == len(weights)
    assert all(0 <= bucket < count for bucket in buckets.tolist())
