"""When do two answers say the same, and what does a judge's reply say?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.agreement import MAX_JUDGED, agree, final_answer, judge_prompt, verdict


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The answer is 12.", "12"),
        ("First 7 + 5.\nThe answer is 12.", "the answer: 12"),
        (r"Hence \boxed{\frac{1}{2}}.", r"\boxed{1} is wrong, it is \boxed{\frac{1}{2}}"),
        ("1,234,567", "1234567"), ("0.50", "0.5"), ("**Paris**", "paris."), ("-0", "0"), ("3\n", " 3 "),
        ("The answer is wrong at first.\nThe answer is 4.", "4"),
    ],
)  # fmt: skip
def test_final_answers_agree(one: str, other: str) -> None:
    assert agree(one, other)
    assert agree(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("12", "13"), ("The answer is 12.", "The answer is 1.2"), ("1,23", "123"), ("yes", ""), ("-3", "3")],
)
def test_final_answers_differ(one: str, other: str) -> None:
    assert not agree(one, other)


@given(st.text())
def test_any_text_agrees_with_itself_and_has_a_final_answer(text: str) -> None:
    assert agree(text, text)
    assert final_answer(text) in text


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("FIRST", 1),
        ("First.", 1),
        ("I think: SECOND.", -1),
        ("**second**", -1),
        ("The first is wrong, so SECOND", -1),
        ("EQUAL", 0),
        ("FIRST or SECOND", None),
        ("the first is wrong", None),
        ("", None),
    ],
)
def test_a_judges_reply_is_one_word(reply: str, expected: int | None) -> None:
    assert verdict(reply) == expected


def test_a_judge_does_not_learn_whose_answers_these_are_and_reads_no_more_than_it_can() -> None:
    prompt = judge_prompt("{conversation}" + "q" * MAX_JUDGED, "a" * MAX_JUDGED * 2, "b")
    assert len(prompt) < 3 * MAX_JUDGED
    assert "reference" not in prompt
    assert "alpha" not in prompt
