"""What is plain of an answer's notation, and does a long text take more than a moment?"""

import time

import pytest

from training.tasks.notation import plain

LONG = 100_000


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (r"0.1\overline{6}", "(15/90)"),
        (r"12.\bar{3}", "(111/9)"),
        (r".\bar3", "(3/9)"),
        (r"x=3.\overline{142857}", "x=(3142854/999999)"),
    ],
)
def test_a_repeating_decimal_is_a_fraction(written: str, expected: str) -> None:
    assert plain(written) == expected


def test_a_repeating_decimal_with_more_digits_than_python_reads_is_left_as_it_is() -> None:
    written = "1" * 5000 + r".1\bar{3}"
    assert plain(written) == written


@pytest.mark.parametrize("wrapped", ["{{{5}}}", "**5**", "__5__", "`'5'`", "{**5**}.", "*_5_*"])
def test_what_is_wrapped_around_an_answer_is_left_out(wrapped: str) -> None:
    assert plain(wrapped) == "5"


@pytest.mark.parametrize("run", ["1", "_", "*", "{}"])
def test_a_run_of_one_character_takes_a_moment(run: str) -> None:
    """Quadratic time would be at least 20 seconds."""
    text = "".join(character * LONG for character in run)
    start = time.process_time()
    plain(text)
    assert time.process_time() - start < 5
