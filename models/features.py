"""What does the difficulty profile see of a prompt? Counts of words, numbers and operators, and whether it is familiar.

Counting needs no tokenizer. The limit: words are counted, not understood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Sequence

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

_WORDS, _UNKNOWN = FEATURES.index("words"), FEATURES.index("unknown_words")
_SIGNS = tuple(map(FEATURES.index, ("plus", "minus", "times")))
_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_TIMES = frozenset({"times", "multiplied", "multiply", "product"})
_ANNOUNCED = ("product of", "multiply")
# Possessive quantifiers, and no match that starts inside a number: matching takes linear time on any prompt.
_BETWEEN = r"(?<!\d)(\d++)\s?(?:[*×x]|times|multiplied by)\s?(\d++)"  # noqa: RUF001
_PRODUCT = re.compile(_BETWEEN + r"|(?:product of|multiply) (\d++) (?:and|by|with) (\d++)", re.IGNORECASE)
_SIMPLE_PRODUCT = re.compile(_BETWEEN)
"""Finds what `_PRODUCT` finds in lower case, where no product is announced."""
_LETTER_X = re.compile(r"\d\s?x\s?\d", re.IGNORECASE)
_STRANGE = re.compile(r"[^\w\s+\-−*×=?.,:;!'\"]|(?<=\d)[.,](?=\d)")  # noqa: RUF001
_DECIMAL = re.compile(r"(?<=\d)[.,](?=\d)")
_ASCII = "".join(map(chr, range(128)))
_LETTERS_ALONE = "".join(char if _WORD.match(char) else " " for char in _ASCII).encode() + bytes(128)
_DIGITS_ALONE = "".join(char if _NUMBER.match(char) else " " for char in _ASCII).encode() + bytes(128)
_ORDINARY = "".join(char for char in _ASCII if not _STRANGE.match(char)).encode()
"""What is not strange by itself."""


def features_of(prompt: str, vocabulary: Container[str]) -> Vector:
    """log(1 + count) of every feature of a prompt, (len(FEATURES),)."""
    return logs(counts_of(prompt, vocabulary))


def logs(counts: Sequence[int]) -> Vector:
    """log(1 + count) of each, (len(FEATURES),)."""
    return np.array([math.log1p(count) for count in counts])


def counts_of(prompt: str, vocabulary: Container[str]) -> tuple[int, ...]:
    """Every feature of a prompt as a count, (len(FEATURES),)."""
    lower, count = prompt.lower(), prompt.count
    words, digits, strange = _ascii_parts(prompt, lower) if prompt.isascii() else _parts(prompt, lower)
    one, two = digits.count(1), digits.count(2)
    signs = count("*") + count("×")  # noqa: RUF001
    if "x" in lower:
        signs += len(_LETTER_X.findall(prompt))
    return (
        len(prompt),
        len(words),
        len([word for word in words if word not in vocabulary]),
        len(digits),
        sum(digits),
        max(digits, default=0),
        one,
        two,
        len(digits) - one - two,
        count("+"),
        count("-") + count("−"),  # noqa: RUF001
        signs + len([word for word in words if word in _TIMES]),
        _digits_to_multiply(prompt, lower, signs),
        strange,
        count("\n") + 1,
    )


def _parts(prompt: str, lower: str) -> tuple[list[str], list[int], int]:
    """Words, lengths of numbers, and how many symbols are strange."""
    return _WORD.findall(lower), [len(number) for number in _NUMBER.findall(prompt)], len(_STRANGE.findall(prompt))


def _ascii_parts(prompt: str, lower: str) -> tuple[list[str], list[int], int]:
    """What `_parts` finds, of a prompt in ASCII and several times as fast: bytes are looked up, not matched."""
    text = prompt.encode()
    words = lower.encode().translate(_LETTERS_ALONE).decode().split()
    digits = list(map(len, text.translate(_DIGITS_ALONE).split()))
    strange = len(text.translate(None, _ORDINARY))
    if b"." in text or b"," in text:
        strange += len(_DECIMAL.findall(prompt))
    return words, digits, strange


def _digits_to_multiply(prompt: str, lower: str, signs: int) -> int:
    """How many products of two digits long multiplication takes: 2 for 7 * 12, 4 for 12 * 34.

    Args:
        prompt: the text.
        lower: the same in lower case.
        signs: how many signs of multiplication are in it.
    """
    if not lower.isascii() or any(words in lower for words in _ANNOUNCED):
        factors = ([group for group in match.groups() if group] for match in _PRODUCT.finditer(prompt))
        return sum(len(left) * len(right) for left, right in factors)
    if not signs and "times" not in lower and "multiplied" not in lower:
        return 0
    return sum([len(left) * len(right) for left, right in _SIMPLE_PRODUCT.findall(lower)])


def words_of(prompt: str) -> list[str]:
    """The words of a prompt, in lower case. A word is a run of letters."""
    return _WORD.findall(prompt.lower())


def is_familiar(counts: Sequence[int]) -> bool:
    """Whether a prompt with these counts has enough words that the fitting prompts have, or names an operation.

    It resembles them only if each of its features is within their range, too.
    """
    words, unknown = counts[_WORDS], counts[_UNKNOWN]
    return words - unknown >= MIN_FAMILIAR * words and (words > 0 or any(counts[sign] for sign in _SIGNS))
