"""Which prompts are the same question, and which only look alike?"""

import pytest

from training.tasks.sameness import key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4", "3-4"),
        ("3+4", "3*4"),
        ("3 < x", "3 > x"),
        ("x = -5", "x = 5"),
        (r"\frac{2n - 1}{n}", r"\frac{2n + 1}{n}"),
        (r"Compute $\sin(-60^\circ)$", r"Compute $\sin(60^\circ)$"),
        ("88 / 4 / 2", "88 / (4 / 2)"),
        ("Round 1.5", "Round 15"),
        ("Round 1.5", "Round 1, 5"),
        ("Compute 5!", "Compute 5"),
        ("Is 0.333... rational?", "Is 0.333 rational?"),
        ("x^2", "x2"),
        ("x\u00b2", "x2"),
        ("10%", "10"),
        ("Find f'(2).", "Find f(2)."),
        ("Find |x|.", "Find x."),
        ("Find A.", "Find a."),
        ("1 2", "12"),
        ("4:3", "4 3"),
        ("\u221a2", "2"),
        ("$5", "\u20ac5"),
        ("\u2264 3", "\u2265 3"),
    ],
)
def test_questions_that_differ_by_what_can_change_the_answer_are_different(one, other):
    assert key(one) != key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3 + 4?", "what is 3+4"),
        ("What is 3 + 4 ?", "WHAT IS  3+4?"),
        ("Ann has 3 pens.\r\nHow many?", "Ann has 3 pens. How many"),
        ("Ann\u2019s pens", "Ann's pens"),
        ("5 \u2212 3", "5 - 3"),
        ("5 \u00d7 3", "5 * 3"),
        ("\ufeffSay 5.", "Say\u00a05\u200b."),
        ("cafe\u0301", "caf\u00e9"),
        ("First, add. Then, stop.", "First add; then stop"),
    ],
)
def test_spelling_white_space_and_punctuation_make_no_other_question(one, other):
    assert key(one) == key(other)


@pytest.mark.parametrize("prompt", ["", "  \n\t", "\u00a0\u3000", "\u200b\ufeff"])
def test_a_prompt_of_white_space_asks_nothing(prompt):
    assert key(prompt) == ""
