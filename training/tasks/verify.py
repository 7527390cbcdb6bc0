"""Is this answer correct? Finds the final answer of a completion and compares it with the gold answer.

Judged as a careful reader would: any notation of the right answer is right, several candidates are wrong, and
numbers are equal only if they are equal exactly. `training/tasks/stated.py` finds what a text says,
`training/tasks/answer.py` what an answer is. Nothing simplifies mathematics, so every text takes a bounded time, in any
thread.
"""

from __future__ import annotations

import re

from training.tasks.answer import LONGEST, read, same_answer
from training.tasks.kinds import Choice, Words
from training.tasks.notation import plain
from training.tasks.stated import closing_number, closing_phrases, final_answer, marked_answer

__all__ = ["final_answer", "is_correct", "is_verifiable", "same_answer"]

_REASON = re.compile(
    r"\s*[,;(-]*\s*\b(?:(?:because|since|as|which|given that|due to)\b.*"
    r"|(?:so|where|hence|thus|therefore|after|with|when|for)\b(?:(?!\bor\b)[^\d\\])*$)",
    re.DOTALL,
)
_ASIDE = re.compile(
    r"\s*(?:\((?![^()]*(?:\d|\bor\b))[^()]*\)|,\s*(?!or\b|and\b|maybe\b|perhaps\b)[A-Za-z' ]+)$", re.IGNORECASE
)
_LETTERED = re.compile(r"\(?[A-J][).:]\)?\s*(?=\S)")
_CHOSEN = re.compile(r"\(?\s*([A-Z])\s*(?:[).:]|$)|([A-Z])(?=\s*(?:,?\s+(?:because|since|as)\b))")
_OPTION = re.compile(r"\b(?:answer|choice|option)(?:\s+is|\s*:)?\s*\(?([A-J])(?![A-Za-z'])", re.IGNORECASE)
_STARTS = re.compile(r"\s*\(?([A-J])(?:\)|[.:])(?=\s|$)|\s*([A-J])\s*$")
_BEGINNING = 6000
"""Characters of the beginning of a text in which an option is looked for."""
_NUMBER = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?")


def is_correct(text: str, gold: str) -> bool:
    """Whether the final answer in `text` equals `gold` in any notation: 1,234 = 1234.0, 1/2 = 0.5, 3 cm = 3.

    Where the text marks no final answer, its last sentence counts. Several candidates are wrong.
    """
    if not text.strip() or not gold.strip():
        return False
    wanted = read(plain(gold[: LONGEST + 1]))
    if isinstance(wanted, Choice):
        return _chosen(text) == wanted.letter
    stated = marked_answer(text)
    if stated is not None:
        return len(stated) <= LONGEST and _same(stated, gold)
    if any(len(phrase) <= LONGEST and _same(phrase, gold) for phrase in closing_phrases(text)):
        return True
    number = None if isinstance(wanted, Words) else closing_number(text)
    return number is not None and same_answer(number, gold)


def is_verifiable(gold: str) -> bool:
    """Whether a gold answer can be compared with others: as a number, a formula, a list or a short text."""
    if _NUMBER.fullmatch(gold):  # most gold answers are, and need no reading
        return True
    if len(gold) > LONGEST or not (text := plain(gold)):
        return False
    answer = read(text)
    if not isinstance(answer, Words):
        return True
    return bool(re.search(r"[^\W\d_]{2}", answer.text)) and text.count("{") == text.count("}")


def _same(stated: str, gold: str) -> bool:
    """Whether a stated answer equals the gold one, also without its reason, an aside, or the letter of an option."""
    shorter = [stated, _REASON.sub("", stated, count=1), _ASIDE.sub("", stated)]
    shorter += [_LETTERED.sub("", plain(stated), count=1)]
    return any(same_answer(each, gold) for each in dict.fromkeys(shorter) if each)


def _chosen(text: str) -> str | None:
    """The option that a text chooses; None if it names none, or several."""
    stated = marked_answer(text)
    if stated is not None:
        answer = plain(stated)
        match = _CHOSEN.match(answer) or re.match(r"(?:option|choice|letter)\s+\(?([A-Z])\b()", answer, re.IGNORECASE)
        if not match or re.search(r"\b(?:or|and|,)\s*\(?[A-J]\b(?![a-z'])", answer[match.end() :]):
            return None
        return (match[1] or match[2]).upper()
    if options := list(_OPTION.finditer(text)):
        after = text[options[-1].end() :]
        return None if re.match(r"\)?\s*(?:or|and|,|/)\s*\(?[A-J]\b", after) else options[-1][1].upper()
    beginning = " ".join(text.split())[:_BEGINNING]
    match = _STARTS.match(plain(beginning)) or _STARTS.match(text.strip("*_ \n"))
    return (match[1] or match[2]) if match else None
