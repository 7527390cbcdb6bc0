"""What is a right answer? Pairs of texts and gold answers with their verdicts, and what holds for all numbers."""

import json
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from training.tasks.verify import is_correct, is_verifiable, same_answer

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("pair", PAIRS, ids=[f"{pair['text'][:40]!r}-{pair['gold']}" for pair in PAIRS])
def test_an_answer_is_judged_as_a_careful_reader_would(pair):
    assert is_correct(pair["text"], pair["gold"]) == pair["right"]


def test_the_pairs_hold_as_many_wrong_answers_as_right_ones():
    assert len(PAIRS) > 450
    assert 0.45 < sum(pair["right"] for pair in PAIRS) / len(PAIRS) < 0.55


def decimal(value: Fraction) -> str:
    """A decimal fraction without an exponent."""
    digits = 0
    while (value * 10**digits).denominator > 1:
        digits += 1
    whole = str(abs(int(value * 10**digits))).rjust(digits + 1, "0")
    return ("-" if value < 0 else "") + (f"{whole[:-digits]}.{whole[-digits:]}" if digits else whole)


def scientific(value: Fraction) -> str:
    shifted = 0
    while value and abs(value) < 1:
        value, shifted = value * 10, shifted - 1
    return rf"{decimal(value)} \times 10^{{{shifted}}}"


def with_commas(value: Fraction) -> str:
    whole, _, rest = decimal(value).partition(".")
    return f"{int(whole):,}" + (f".{rest}" if rest else "") if int(whole) else decimal(value)


def mixed(value: Fraction) -> str:
    whole, rest = divmod(abs(value), 1)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}\\frac{{{rest.numerator}}}{{{rest.denominator}}}" if whole and rest else fraction(value)


def fraction(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


NOTATIONS = [
    decimal,
    scientific,
    with_commas,
    mixed,
    fraction,
    lambda value: f"{value.numerator}/{value.denominator}",
    lambda value: rf"\dfrac{{{value.numerator * 3}}}{{{value.denominator * 3}}}",
    lambda value: f"{decimal(value)} \\text{{ cm}}",
    lambda value: f"x = {decimal(value)}",
    lambda value: f"({decimal(value)})",
    lambda value: f"{decimal(value)}e0",
    lambda value: rf"\sqrt{{{fraction(value * value)}}}" if value >= 0 else rf"-\sqrt{{{fraction(value * value)}}}",
]
notations = st.sampled_from(NOTATIONS)
near = st.sampled_from(
    [Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 10), Fraction(1, 10**9), Fraction(1, 10**30)]
)
numbers = st.builds(
    lambda whole, tens, offset: Fraction(whole, 10**tens) + offset,
    st.integers(-(10**7), 10**7),
    st.integers(0, 9),
    near,
)


@settings(max_examples=80)
@given(numbers, notations, notations)
def test_a_number_equals_itself_in_any_two_notations(value, first, second):
    assert same_answer(first(value), second(value))


@settings(max_examples=80)
@given(numbers, numbers, near, notations, notations)
def test_no_two_different_numbers_are_equal_in_any_notations(one, other, offset, first, second):
    for different in (other, one + offset, one * 2, -one, one * 100, one / 100):
        if different != one:
            assert not same_answer(first(one), second(different))


@given(st.integers(2, 9), st.integers(-400, 400), st.integers(2, 9), st.integers(-400, 400))
def test_powers_are_equal_only_if_they_are_the_same_number(base, exponent, other_base, other_exponent):
    left, right = Fraction(base) ** exponent, Fraction(other_base) ** other_exponent
    assert same_answer(f"{base}^{{{exponent}}}", f"{other_base}^{{{other_exponent}}}") == (left == right)


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 30), st.integers(1, 30))
def test_roots_are_equal_only_if_their_squares_are(factor, other_factor, under, other_under):
    equal = factor**2 * under == other_factor**2 * other_under
    assert same_answer(rf"{factor}\sqrt{{{under}}}", rf"{other_factor}\sqrt{{{other_under}}}") == equal


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=4, unique=True), st.data())
def test_several_candidates_are_never_right(candidates, data):
    joined = data.draw(st.sampled_from([", ", " or ", " and ", "; ", r" \text{ or } ", " / or "])).join(
        map(str, candidates)
    )
    gold = str(data.draw(st.sampled_from(candidates)))
    for form in ("The answer is {}.", r"\boxed{{{}}}", "So it is {}.", "#### {}", "{}"):
        assert not is_correct(form.format(joined), gold)
    boxes = data.draw(st.sampled_from([", ", " or ", " and ", "\n", "; "])).join(f"\\boxed{{{c}}}" for c in candidates)
    assert not is_correct(boxes, gold)


@pytest.mark.parametrize("text", ["5 cm^{2}answer", "5 cm^22", "5 m^2^2", "5 cm^x", "5 cm^\u0665"])
def test_a_unit_with_something_behind_its_power_is_graded(text: str):
    """It had raised ValueError."""
    assert isinstance(is_correct(text, "5"), bool)
    assert not is_correct(text, "6")


PIECES = r"""
    \boxed{ \frac{1} } ( ) [ ] \{ \} ^ _ ! , ; . : $ \$ \[ \] ** # #### answer is The 5 17 1,234 1e9 x \sqrt \pi \pm
    \cup = < \le or and million squared cm % | \begin{pmatrix} \end{pmatrix} & \\ not wait - + * / e i log 9^ 9!
"""
pieces = st.sampled_from([*PIECES.split(), "\u20ac", "\u00bd", "\u00b2", "\u2212"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(pieces, max_size=80),
    st.sampled_from(["", " "]),
    st.sampled_from(["3", r"\frac{1}{2}", "(1, 2)", "B", "odd"]),
)
def test_any_sequence_of_notation_is_graded_in_a_moment(parts, between, gold):
    start = time.process_time()
    text = between.join(parts)
    assert isinstance(is_correct(text, gold), bool)
    assert isinstance(is_verifiable(text), bool)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    "text",
    [
        "answer is" + " " * 50_000 + "5",
        "\\boxed{" * 5000,
        "\\boxed{5} " * 5000,
        "$" * 20_000,
        "1 " * 20_000,
        "\n" * 50_000,
        "one hundred " * 2000,
        "is not but " * 9000,
        r"\boxed{" + "9^" * 140 + "9}",
        r"\boxed{10^{10^{10^{10}}}}",
        r"\boxed{3000!^{2000}}",
        r"\boxed{" + "(1/7+x)^{4999}" * 20 + "}",
        r"\boxed{" + "(" * 290 + "}",
        r"\boxed{\sin(10^{500})}",
        "1," + "111," * 20_000,
        "1" * 50_000 + r".1\bar{3}",
        "_" * 50_000,
        "{" * 50_000 + "}" * 50_000,
    ],
    ids=lambda text: text[:16],
)
def test_hostile_texts_are_graded_in_a_moment_in_any_thread(text):
    graded = []

    def grade():
        graded.extend(is_correct(text, gold) for gold in ("5", "x^2+1", "1,2,3", r"\text{odd}", "B"))

    start = time.process_time()
    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
    assert len(graded) == 5
    assert time.process_time() - start < 10


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
