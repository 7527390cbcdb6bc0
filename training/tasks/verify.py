"""Is this answer correct? Extracts the final answer from a completion and compares it with the gold answer."""

from __future__ import annotations

import re
import threading
from typing import Any

from math_verify import parse, verify

_STATED = re.compile(r"answer is:?\s*(\S.*?)\s*(?:[.!]?\s*$|[.!]\s)", re.IGNORECASE | re.MULTILINE)
_INTEGER = re.compile(r"-?[0-9]+")
_WITH_UNIT = re.compile(
    r"(-?[0-9][0-9.,]*?)\s+(?!(?:hundred|thousand|million|billion|trillion|dozen|score)\b)[A-Za-z ]+", re.IGNORECASE
)
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '][^\W\d_]+)*")
_IN_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_LONGEST = 300
"""Answers with more characters are wrong without a comparison: simplifying them could take forever."""
_SECONDS = 3


def final_answer(text: str) -> str | None:
    """The last answer that the text states as `The answer is N` or `\\boxed{...}`; None if it states none."""
    stated = [(match.end(), match[1]) for match in _STATED.finditer(text)][-1:]
    candidates = stated + _last_boxed(text)
    return max(candidates)[1].strip().strip("$").strip() or None if candidates else None


def is_correct(text: str, gold: str) -> bool:
    """Whether the final answer in `text` equals `gold` in any notation: 1,234 = 1234.0, 1/2 = 0.5.

    Words are compared letter by letter.
    """
    stated = final_answer(text)
    if stated is None or len(stated) > _LONGEST:
        return False
    if stated == gold:
        return True
    if _INTEGER.fullmatch(stated) and _INTEGER.fullmatch(gold):
        return int(stated) == int(gold)
    if _WORDS.fullmatch(words := _plain(gold)):  # math-verify would read a product of letters in any order
        return _plain(stated) == words
    if number := _WITH_UNIT.fullmatch(stated):
        stated = number[1]
    seconds = _seconds()
    return bool(verify(_parsed(gold), _parsed(stated), timeout_seconds=seconds))


def is_verifiable(gold: str) -> bool:
    """Whether a gold answer can be compared with others: as a number, a formula or a short text."""
    if len(gold) > _LONGEST or not gold.strip():
        return False
    return bool(_WORDS.fullmatch(_plain(gold))) or any(not isinstance(value, str) for value in _parsed(gold))


def _plain(answer: str) -> str:
    """The words of an answer in lower case, without LaTeX around them."""
    return " ".join(_IN_TEXT.sub(r"\1", answer).strip(" .").lower().split())


def _parsed(answer: str) -> list[Any]:
    return parse(f"${answer}$", parsing_timeout=_seconds())


def _seconds() -> Any:
    """math-verify's time limit in seconds; None outside the main thread, because it uses signals."""
    return _SECONDS if threading.current_thread() is threading.main_thread() else None


def _last_boxed(text: str) -> list[tuple[int, str]]:
    """(end, content) of the last complete `\\boxed{...}`, nested braces included; empty if there is none."""
    for start in reversed([match.end() for match in re.finditer(r"\\boxed\s*\{", text)]):
        depth = 1
        for at in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                return [(at + 1, text[start:at])]
    return []
