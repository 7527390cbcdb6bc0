"""What does the difficulty profile see of a prompt? Counts of words, numbers and operators, and whether it is familiar.

Counting needs no tokenizer. The limit: words are counted, not understood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

FEATURES = (
    "characters",
    "words",
    "unknown_words",
    "numbers",
    "digits",
    "longest_number",
    "one_digit_numbers",
    "two_digit_numbers",
    "longer_numbers",
    "plus",
    "minus",
    "times",
    "digits_to_multiply",
    "strange_symbols",
    "lines",
)
"""The names of the counts, in order. `digits_to_multiply` exists because the cost of digits depends on the operation.
`strange_symbols` counts brackets, decimal points and the like. It exists only for the check of familiarity: a prompt is
unfamiliar if any count is outside the range of the fitting prompts."""
MIN_FAMILIAR = 0.6
"""The profile abstains if a smaller share of a prompt's words is in its vocabulary."""

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_TIMES = ("times", "multiplied", "multiply", "product")
# Possessive quantifiers, and no match that starts inside a number: matching takes linear time on any prompt.
_PRODUCT = re.compile(
    r"(?<!\d)(\d++)\s?(?:[*×x]|times|multiplied by)\s?(\d++)"  # noqa: RUF001
    r"|(?:product of|multiply) (\d++) (?:and|by|with) (\d++)",
    re.IGNORECASE,
)
_LETTER_X = re.compile(r"\d\s?x\s?\d", re.IGNORECASE)
_STRANGE = re.compile(r"[^\w\s+\-−*×=?.,:;!'\"]|(?<=\d)[.,](?=\d)")  # noqa: RUF001


def features_of(prompt: str, vocabulary: Container[str]) -> Vector:
    """log(1 + count) of every feature of a prompt, (len(FEATURES),)."""
    words = words_of(prompt)
    numbers = _NUMBER.findall(prompt)
    digits = [len(number) for number in numbers]
    signs = prompt.count("*") + prompt.count("×") + len(_LETTER_X.findall(prompt))  # noqa: RUF001
    counts = (
        len(prompt),
        len(words),
        len([word for word in words if word not in vocabulary]),
        len(numbers),
        sum(digits),
        max(digits, default=0),
        digits.count(1),
        digits.count(2),
        len([n for n in digits if n > 2]),
        prompt.count("+"),
        prompt.count("-") + prompt.count("−"),  # noqa: RUF001
        signs + sum(word in _TIMES for word in words),
        _digits_to_multiply(prompt),
        len(_STRANGE.findall(prompt)),
        prompt.count("\n") + 1,
    )
    return np.log1p(np.array(counts, dtype=np.float64))


def _digits_to_multiply(prompt: str) -> int:
    """How many products of two digits long multiplication takes: 2 for 7 * 12, 4 for 12 * 34."""
    factors = ([group for group in match.groups() if group] for match in _PRODUCT.finditer(prompt))
    return sum(len(left) * len(right) for left, right in factors)


def words_of(prompt: str) -> list[str]:
    """The words of a prompt, in lower case. A word is a run of letters."""
    return _WORD.findall(prompt.lower())


def is_familiar(features: Vector, lower: Vector, upper: Vector) -> bool:
    """Whether a prompt with these features resembles the fitting prompts, whose features were in [lower, upper]."""
    by_name = dict(zip(FEATURES, features.tolist(), strict=True))
    words, unknown = math.expm1(by_name["words"]), math.expm1(by_name["unknown_words"])
    enough_known_words = words - unknown >= MIN_FAMILIAR * words
    names_an_operation = words > 0 or any(by_name[sign] > 0 for sign in ("plus", "minus", "times"))
    in_range = (features >= lower) & (features <= upper)
    return names_an_operation and enough_known_words and bool(in_range.all())
