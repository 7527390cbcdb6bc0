import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from training.tasks.verify import is_correct, is_verifiable


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("The answer is 42.", "42"),
        ("The answer is 1,234.", "1234"),
        ("The answer is 42.0.", "42"),
        ("The answer is 042.", "42"),
        ("The answer is -7", "-7"),
        (r"so it is \boxed{17}", "17"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{\left( 3, \frac{\pi}{2} \right)}", r"(3, \frac{\pi}{2})"),
        (r"The answer is $\boxed{\dfrac{3}{4}}$.", r"\frac34"),
        (r"The answer is 4. So \boxed{5}", "5"),
        ("The answer is 3. Wait. The answer is 5.", "5"),
    ],
)
def test_equal_answers_are_correct_in_any_notation(text, gold):
    assert is_correct(text, gold)


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("The answer is 41.", "42"),
        ("The answer is 7", "-7"),
        ("42", "42"),
        ("", "0"),
        ("The answer is .", "0"),
        ("The answer is 420", "42"),
        (r"\boxed{5} but the answer is 4.", "5"),
        (r"\boxed{42", "42"),
        (r"\boxed{" + "9^" * 400 + "9}", "42"),
        ("The answer is act.", "cat"),
        ("The answer is on.", "No"),
        ("The answer is 3 million.", "3"),
        ("The answer is 12 dozen.", "12"),
    ],
)
def test_different_and_missing_answers_are_wrong(text, gold):
    assert not is_correct(text, gold)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_two_integers_are_the_same_answer_only_if_they_are_equal(stated, gold):
    assert is_correct(f"The answer is {stated}.", str(gold)) == (stated == gold)


@given(st.text(), st.sampled_from(["{}", "The answer is {}.", r"\boxed{{{}}}"]))
@example("\u00b2", r"\boxed{{{}}}")
@example("--5", "The answer is {}.")
def test_any_text_can_be_graded(text, form):
    assert isinstance(is_correct(form.format(text), "3"), bool)


@pytest.mark.parametrize(
    ("stated", "gold", "right"),
    [
        ("3/4", "0.75", True),
        ("3/4", "3", False),
        ("3x+2", "3", False),
        ("Paris", "Paris", True),
        ("Rome", "Paris", False),
        (r"\text{paris}", "Paris", True),
        ("x + y", "y + x", True),
        ("42 apples", "42", True),
        ("41 apples", "42", False),
        ("$5$", "5", True),
        ("1.5", "1.5", True),
        ("1.5", "1", False),
    ],
)
def test_a_stated_answer_is_read_to_the_end_of_its_sentence(stated, gold, right):
    assert is_correct(f"The answer is {stated}. That is all.", gold) == right
    assert is_correct(f"So the answer is: {stated}", gold) == right


@pytest.mark.parametrize("gold", ["42", "-7", "3.5", r"\frac{1}{2}", r"x^2 + 1", r"(1, 2)", r"\text{Tuesday}"])
def test_verifiable_gold_answers(gold):
    assert is_verifiable(gold)


@pytest.mark.parametrize("gold", ["", "  ", "1" * 400, "???", "{", r"\frac{"])
def test_unverifiable_gold_answers(gold):
    assert not is_verifiable(gold)
