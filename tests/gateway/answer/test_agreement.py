"""When do two answers say the same, and what does a judge's reply say?"""

from __future__ import annotations

import time

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
        ("The answer is -5.", "**-5**"), ("The answer is \u22125.", "-5"), ("answer: +5", "= 5"), (".5", "0.5"),
        ("The answer is (B).", "B) "), ("[B]", "(b)"), ("(The answer is 5)", "5"),
        ("'Paris'.", "Yes, the answer: paris!"),
        ("The answer is `a*`.", "`A*`"), (r"The answer is \(5\).", "Answer: $5$"), (r"\[ 5 \]", "The answer is $$5$$"),
        ("The answer is:\n\n**5**", "5"), ("The answer is the following:\n5", "The answer is the following:  5"),
        ("So\n\\[\nx = 5\n\\]", "x = 5"), ("So\n$$\nx = 5\n$$.", "Hence\n\\[\nx = 5\n\\]"),
        ("Here:\n```python\nprint(5)\n```", "The answer is:\n~~~\nprint(5)\n~~~\nIt prints 5."),
        ("The answer is +.", "Answer: **+**"),
        ("I do not know what the answer is.", "I do not know what the answer is"),
    ],
)  # fmt: skip
def test_final_answers_agree(one: str, other: str) -> None:
    assert agree(one, other)
    assert agree(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("12", "13"), ("The answer is 12.", "The answer is 1.2"), ("1,23", "123"), ("yes", ""), ("-3", "3"),
        ("The answer is -5.", "The answer is 5."), ("The answer is √2.", "The answer is 2."),
        ("Answer: ≥ 5", "Answer: ≤ 5"), ("The answer >= 5", "The answer <= 5"), ("The answer != 5", "The answer = 5"),
        ("answer: .5", "answer: 5"), (".5", "5"), (r"\boxed{(1,2)}", r"\boxed{[1,2]}"), ("(0, 1)", "(0, 1]"),
        ("[0, 1)", "[0, 1]"), ("[5]", "5"), ("(1)(2)", "(1)(2"), (r"\boxed{5!}", r"\boxed{5}"), ("n!", "n"),
        ("f'", "f"), ("`a*`", "`a`"), ("The answer isn't 5.", "The answer is 5."),
    ],
)  # fmt: skip
def test_final_answers_differ(one: str, other: str) -> None:
    assert not agree(one, other)
    assert not agree(other, one)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nprint({})\n```", "~~~\n{}\n~~~", "So\n\\[\nx = {}\n\\]", "So\n$$\nx = {}\n$$",
        "x = {}\n---", "Choose {}.\n✅",
        "```\n\n```\nIt is {}\n```\n```", "\\begin{{align}}\nx &= {}\n\\end{{align}}", "<b>\n{}\n</b>",
        '{{\n "x": {}\n}}',
        "The answer is:\n```python\nprint({})\n```\nIt prints it.", "The answer is\n\\[\nx = {}\n\\]\nas was asked.",
        "Answer:\n\\begin{{cases}} 1 & x > 0 \\\\\n{} & x < 0 \\end{{cases}}\nas was asked.",
        "Answer:\n{{\n\"x\": {}\n}}\nas JSON",
        "The answer is the following:\n{}\nI hope that helps", "It is {}, so that is what the answer is.",
        "\\boxed{{}} is {}",
    ],
)  # fmt: skip
def test_answers_whose_last_line_says_nothing_are_compared_by_what_does(answer: str) -> None:
    assert not agree(answer.format(4), answer.format(5))
    assert agree(answer.format(5), answer.format(5) + "\n")


@pytest.mark.parametrize(
    "part", ["answer ", "answer:", "(", ")", "!", "aa!", "`", "```\n", "\\[", "\\boxed{", "*", "$", "\\begin{"]
)
def test_hostile_answers_are_compared_in_linear_time(part: str) -> None:
    """The whole of what is read is a few milliseconds; with time that grows as the square it would be many seconds."""
    text = part * 20_000
    began = time.process_time()
    assert not agree(text, text + "x5")
    assert time.process_time() - began < 1


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
